"""`POST /v1/images/edits` in OpenAI's shape: the first image is the person, the others are the garments.

The call is synchronous, as OpenAI's is, or a stream of events. A client that leaves before its answer has its job
canceled, unless an Idempotency-Key leads back to it.
"""

from __future__ import annotations

import base64
import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.errors import EngineUnavailable, NotFound, UnsupportedMediaType
from service.gateway.http.bodies import form_of, media_type
from service.gateway.http.limits import release_upload
from service.gateway.routes.departures import CLOSED, ClientLeft
from service.gateway.routes.openai_answers import failure, usage
from service.gateway.routes.openai_form import SAFETY_IDENTIFIER, Wish, read_edit
from service.gateway.routes.openai_stream import EditStream
from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.routes.state import Gateway, Parts, Who, asked_of
from service.gateway.shapes import compat_views, edits, error_samples, openapi
from service.jobs.schemas import JobRecord
from service.retry_after import SHORTLY

router = APIRouter(prefix="/v1", tags=["compatible"], dependencies=[KNOWN_QUERY])

ANY_MODEL = "changeroom"


@router.post(
    "/images/edits",
    summary="OpenAI: edit images",
    response_model=compat_views.OpenAIImages,
    responses={
        200: {
            "description": "The picture; with `stream=true` server-sent events.",
            "content": {"text/event-stream": {"schema": edits.EVENT, "example": edits.EVENTS_EXAMPLE}},
        },
        **error_samples.responses(
            *error_samples.ASKED,
            *error_samples.BODY,
            *error_samples.FORM,
            *error_samples.PICTURE,
            *error_samples.ADMISSION,
            *("missing-person", "missing-garment", "too-many-garments", "unsupported-parameter", "unsupported-size"),
            *("canceled", "unprocessable-request", "out-of-memory", "engine-failed", "worker-lost", "input-damaged"),
            *("deadline-exceeded", "try-on-erased", "input-erased", "result-expired"),
            *("unknown-model", "engine-unavailable"),
            dialect="openai",
        ),
    },
    openapi_extra=openapi.OPENAI_BODY,
)
async def edit_images(request: Request, parts: Parts, caller: Who) -> Response:
    """image[]: first the person, then 1 to 6 garments, all worn at once; `prompt` adds your words.

    A job whose client leaves before the answer is canceled, unless it came with an Idempotency-Key.
    """
    asked = asked_of(request, parts, caller)
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("Send multipart/form-data.", code="unsupported-content-type")
    async with form_of(request, parts.settings) as form:
        requested, wish = await read_edit(form, parts.settings)
    await _check_model(parts, wish.model)
    submitted = await parts.tryons.submit(requested, asked)
    del requested
    release_upload(request)
    kept = asked.idempotency_key is not None
    if wish.partial_images is not None:
        return EditStream(parts, caller, submitted.job_id, wish, kept=kept)
    try:
        record = await parts.departures.unless_left(
            request, parts.tryons.wait(caller, submitted.job_id, asked.deadline_s + 5)
        )
    except ClientLeft:
        if not kept:
            parts.departures.abandon(submitted.job_id)
        return Response(status_code=CLOSED)
    if record.status != "succeeded":
        raise failure(record)
    answer = await _answer(request, parts, record, wish)
    return JSONResponse(answer.model_dump(exclude_none=True))


async def _answer(request: Request, parts: Gateway, record: JobRecord, wish: Wish) -> compat_views.OpenAIImages:
    image = compat_views.OpenAIImage(revised_prompt=record.spec.instruction)
    if wish.as_url:
        address, _ = parts.tryons.image_address(record)
        image.url = parts.address.of(request) + (address or "")
    else:
        data, _ = await parts.tryons.picture(record)
        image.b64_json = base64.b64encode(data).decode()
    return compat_views.OpenAIImages(
        created=int(time.time()),
        data=[image],
        background="opaque",
        output_format=record.spec.output_format,
        quality=wish.quality,
        size=f"{record.result.width}x{record.result.height}" if record.result else "",
        usage=usage(record),
        safety_identifier=record.spec.metadata.get(SAFETY_IDENTIFIER),
    )


async def _check_model(parts: Gateway, name: str | None) -> None:
    """Raises NotFound for a model that no ready worker has, EngineUnavailable where there is none to tell."""
    if name in (None, ANY_MODEL):
        return
    loaded = {worker.model for worker in await parts.fleet.workers()}
    if not loaded:
        raise EngineUnavailable(
            f"No worker is ready, so nobody knows the model {name[:64]!r}; leave model out to wait for one.",
            retry_after=SHORTLY,
        )
    if name not in loaded:
        raise NotFound(
            f"No ready worker has the model {name[:64]!r}; choose {' or '.join(sorted(loaded))}, or leave model out.",
            code="unknown-model",
            pointer="model",
        )
