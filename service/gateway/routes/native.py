"""The native REST surface: try-ons and the garment catalogue."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from service.errors import InvalidRequest, UnprocessableRequest, UnsupportedMediaType
from service.gateway.http import headers, ranges, sse
from service.gateway.http.bodies import file_bytes, form_of, media_type, read_body
from service.gateway.http.limits import release_upload
from service.gateway.http.request_context import timed
from service.gateway.routes.departures import CLOSED, ClientLeft
from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.routes.request_reading import read_requested
from service.gateway.routes.state import Gateway, Parts, Who, asked_of
from service.gateway.shapes import error_samples, forms, openapi, views
from service.gateway.shapes.request import CATEGORIES, MAX_LAYER, SKU, unknown_field
from service.gateway.work.garments import view as garment_view
from service.gateway.work.tryons import Submitted
from service.jobs.schemas import TERMINAL, Category, JobRecord
from service.retry_after import SOON

router = APIRouter(prefix="/v1", dependencies=[KNOWN_QUERY])

TOKEN = "1795374000.bWFj"
TryOnId = Annotated[
    str, Path(min_length=1, max_length=64, description="The id of a try-on.", examples=[views.EXAMPLE_ID])
]
Sku = Annotated[str, Path(pattern=SKU, description="Your own name for the garment.", examples=["SHIRT-42"])]


@router.post(
    "/try-ons",
    tags=["try-ons"],
    summary="Dress a person",
    status_code=202,
    response_model=views.TryOnView,
    responses={
        200: {
            "model": views.TryOnView,
            "description": "Finished within `Prefer: wait`.",
            "headers": openapi.JOB_HEADERS,
        },
        202: {"description": "Written to the queue; follow Location.", "headers": openapi.JOB_HEADERS},
        **error_samples.responses(
            *error_samples.ASKED,
            *error_samples.BODY,
            *error_samples.FORM,
            *error_samples.ENCODED,
            *error_samples.PICTURE,
            *error_samples.ADMISSION,
            *error_samples.WEBHOOK,
            *("missing-person", "missing-garment", "too-many-garments", "unknown-sku@422", "conflicting-fields"),
            *("unsupported-size", "unsupported-steps", "priority-not-allowed", "try-on-erased"),
        ),
    },
    openapi_extra=openapi.TRY_ON_BODY,
)
async def create_try_on(request: Request, parts: Parts, caller: Who) -> Response:
    """One person and 1 to 6 garments in, a job out: 202 with its Location, or 200 with `Prefer: wait=N`.

    A client that leaves during that wait has its job canceled, unless an Idempotency-Key or a `webhook_url` leads back.
    """
    asked = asked_of(request, parts, caller)
    with timed(asked.timings, "read"):
        requested = await read_requested(request, parts.settings)
    submitted = await parts.tryons.submit(requested, asked)
    findable = asked.idempotency_key is not None or bool(requested.options.webhook_url)
    del requested
    release_upload(request)
    try:
        return await answer(request, parts, caller, submitted)
    except ClientLeft:
        if not findable:
            parts.departures.abandon(submitted.job_id)
        return Response(status_code=CLOSED)


async def answer(request: Request, parts: Gateway, caller: Who, submitted: Submitted) -> Response:
    """202 with Location and Retry-After, or 200 once the job has ended within the preferred wait.

    Raises ClientLeft.
    """
    wait = headers.prefer_wait(request.headers.get("prefer"))
    with timed(request.state.timings, "wait"):
        waiting = parts.tryons.wait(caller, submitted.job_id, wait or 0.0)
        record = await (parts.departures.unless_left(request, waiting) if wait else waiting)
    ended = record.status in TERMINAL
    out = {"Location": f"/v1/try-ons/{submitted.job_id}"}
    if wait is not None:
        out["Preference-Applied"] = f"wait={wait:.0f}"
    if submitted.replayed:
        out["Idempotent-Replayed"] = "true"
    if not ended:
        out["Retry-After"] = str(SOON)
    stages(request, record)
    status = 200 if ended and (wait is not None or submitted.replayed) else 202
    return JSONResponse(parts.tryons.view(record).model_dump(), status_code=status, headers=out)


def stages(request: Request, record: JobRecord) -> None:
    """Put the stages of a finished job into Server-Timing."""
    if record.result is not None:
        request.state.timings.update({f"job-{name}": s for name, s in record.result.stages.items()})


@router.get(
    "/try-ons/{id}",
    tags=["try-ons"],
    summary="Read a try-on",
    response_model=views.TryOnView,
    responses=error_samples.responses(*error_samples.ASKED, *error_samples.JOB),
    openapi_extra=openapi.PREFER,
)
async def read_try_on(id: TryOnId, request: Request, parts: Parts, caller: Who) -> Response:
    """The state of a try-on; with `Prefer: wait=N` the answer comes when it has ended, or after N seconds."""
    wait = headers.prefer_wait(request.headers.get("prefer"))
    record = await parts.tryons.wait(caller, id, wait or 0.0)
    out = {} if record.status in TERMINAL else {"Retry-After": str(SOON)}
    if wait is not None:
        out["Preference-Applied"] = f"wait={wait:.0f}"
    stages(request, record)
    return JSONResponse(parts.tryons.view(record).model_dump(), headers=out)


@router.get(
    "/try-ons/{id}/events",
    tags=["try-ons"],
    summary="Follow a try-on",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-Sent Events: queued, processing, progress, then one terminal event.",
            "content": {"text/event-stream": {"schema": openapi.EVENT_SCHEMA, "example": openapi.EVENTS_EXAMPLE}},
        },
        204: {"description": "Last-Event-ID names the end: there is nothing more, and event sources stop asking."},
        **error_samples.responses(*error_samples.ASKED, *error_samples.JOB, "invalid-header"),
    },
    openapi_extra=openapi.LAST_EVENT_ID,
)
async def follow_try_on(id: TryOnId, request: Request, parts: Parts, caller: Who) -> Response:
    """Queue position, stage, step, small previews, and the try-on itself at the end; resumable."""
    last = headers.last_event_id(request.headers.get("last-event-id"))
    await parts.tryons.get(caller, id)
    owner = parts.queue.owner
    if last is not None and await owner.told_all(id, last):
        return Response(status_code=204)

    def view(record: JobRecord) -> dict[str, Any]:
        return parts.tryons.view(record).model_dump()

    body = sse.stream(owner.subscribe(id, last), lambda: parts.tryons.read(id), view, parts.tryons.stopping)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@router.get(
    "/try-ons/{id}/image",
    tags=["try-ons"],
    summary="The finished picture",
    response_class=Response,
    responses={
        200: {
            "description": "The picture.",
            "headers": openapi.PICTURE_HEADERS,
            "content": openapi.PICTURE_CONTENT,
        },
        206: {
            "description": "The part that Range asked for.",
            "headers": openapi.PART_HEADERS,
            "content": openapi.PICTURE_CONTENT,
        },
        304: {"description": "The picture named by If-None-Match is the one.", "headers": openapi.PICTURE_HEADERS},
        **error_samples.responses(
            *(*error_samples.ASKED, *error_samples.JOB, "invalid-token", "not-finished", "no-picture"),
            *("result-expired", "range-not-satisfiable"),
        ),
    },
    openapi_extra=openapi.PICTURE_CONDITIONS,
)
async def read_image(
    id: TryOnId,
    request: Request,
    parts: Parts,
    token: Annotated[str | None, Query(max_length=256, description="From a signed address.", examples=[TOKEN])] = None,
) -> Response:
    """The picture, with the key of its owner or through the signed address in `result.url`."""
    if token is not None:
        record = await parts.tryons.signed_record(id, token)
    else:
        record = await parts.tryons.get(parts.keys.caller(request), id)
    etag = f'"{record.result.blob.rsplit("/", 1)[-1]}"' if record.result is not None else ""
    out = {"ETag": etag, "Cache-Control": "private, max-age=3600, immutable"}
    known = request.headers.get("if-none-match", "")
    if etag and (etag in known or known.strip() == "*"):
        return Response(status_code=304, headers=out)
    data, kind = await parts.tryons.picture(record)
    return ranges.answer(data, kind, etag, request.headers, out)


@router.post(
    "/try-ons/{id}/cancel",
    tags=["try-ons"],
    summary="Cancel a try-on",
    response_model=views.TryOnView,
    responses=error_samples.responses(*error_samples.ASKED, *error_samples.JOB),
)
async def cancel_try_on(id: TryOnId, parts: Parts, caller: Who) -> Response:
    """A queued job ends at once, a running one at its next step. Canceling twice is the same as once."""
    record = await parts.tryons.cancel(caller, id)
    return JSONResponse(parts.tryons.view(record).model_dump())


@router.delete(
    "/try-ons/{id}",
    tags=["try-ons"],
    summary="Erase a try-on",
    status_code=204,
    response_class=Response,
    responses=error_samples.responses(*error_samples.ASKED, *error_samples.JOB),
)
async def erase_try_on(id: TryOnId, parts: Parts, caller: Who) -> Response:
    """Cancel it where it runs and erase its record, inputs and picture at once."""
    await parts.tryons.erase(caller, id)
    return Response(status_code=204)


@router.put(
    "/garments/{sku}",
    tags=["catalogue"],
    summary="Put a garment into the catalogue",
    response_model=views.CatalogueView,
    responses={
        200: {"description": "Replaced: later try-ons wear the new picture."},
        201: {"model": views.CatalogueView, "description": "New.", "headers": openapi.LOCATION},
        **error_samples.responses(
            *error_samples.ASKED,
            *error_samples.BODY,
            *error_samples.FORM,
            *error_samples.PICTURE,
            *error_samples.UPLOAD,
            *("missing-image", "conflicting-fields"),
        ),
    },
    openapi_extra=openapi.GARMENT_BODY,
)
async def put_garment(
    sku: Sku,
    request: Request,
    parts: Parts,
    caller: Who,
    category: Annotated[Category, Query(examples=["coats"])] = "auto",
    layer: Annotated[str | None, Query(max_length=MAX_LAYER, examples=["open"])] = None,
) -> Response:
    """Upload a garment once, as multipart (part `image`) or as the picture itself, and wear it by its sku."""
    kind = media_type(request)
    if kind == "multipart/form-data":
        async with form_of(request, parts.settings) as form:
            unknown = set(form) - set(forms.GARMENT_FIELDS)
            if unknown:
                raise unknown_field(sorted(unknown)[0], forms.GARMENT_FIELDS)
            for name in form:
                if len(form.getlist(name)) > 1:
                    raise InvalidRequest(f"{name} was sent more than once.", code="invalid-field", pointer=name)
                if request.query_params.get(name, form[name]) != form[name]:
                    raise UnprocessableRequest(
                        f"{name}: the query and the form differ; send one.", code="conflicting-fields", pointer=name
                    )
            upload, given, words = form.get("image"), form.get("category"), form.get("layer")
            if upload is None or isinstance(upload, str):
                raise InvalidRequest(
                    "Send the picture in a file part named image.", code="missing-image", pointer="image"
                )
            data = await file_bytes(upload, "image", parts.settings)
        if isinstance(given, str):
            if given not in CATEGORIES:
                raise InvalidRequest(
                    f"category: choose one of {', '.join(CATEGORIES)}.",
                    code="invalid-field",
                    pointer="category",
                )
            category = cast(Category, given)
        if isinstance(words, str) and len(words) > MAX_LAYER:
            raise InvalidRequest(f"layer: at most {MAX_LAYER} characters.", code="invalid-field", pointer="layer")
        layer = words if isinstance(words, str) and words else layer
    elif kind.startswith("image/"):
        data = await read_body(request)
    else:
        raise UnsupportedMediaType(
            "Send the picture itself as image/*, or multipart/form-data with a part named image.",
            code="unsupported-content-type",
        )
    view, new = await parts.garments.put(caller, sku, data, category=category, layer=layer)
    out = {"Location": f"/v1/garments/{sku}"} if new else {}
    return JSONResponse(view.model_dump(), status_code=201 if new else 200, headers=out)


@router.get(
    "/garments/{sku}",
    tags=["catalogue"],
    summary="Read a garment",
    response_model=views.CatalogueView,
    responses=error_samples.responses(*error_samples.ASKED, "unknown-sku@404"),
)
async def read_garment(sku: Sku, parts: Parts, caller: Who) -> views.CatalogueView:
    """What the catalogue knows about a garment."""
    return garment_view(await parts.garments.get(caller.tenant, sku))


@router.delete(
    "/garments/{sku}",
    tags=["catalogue"],
    summary="Erase a garment",
    status_code=204,
    response_class=Response,
    responses=error_samples.responses(*error_samples.ASKED, "unknown-sku@404"),
)
async def delete_garment(sku: Sku, parts: Parts, caller: Who) -> Response:
    """Erase a garment and its picture."""
    await parts.garments.delete(caller.tenant, sku)
    return Response(status_code=204)
