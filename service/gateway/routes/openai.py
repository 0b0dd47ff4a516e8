"""`POST /v1/images/edits` in OpenAI's shape: the first image is the person, the others are the garments.

The call is synchronous, as OpenAI's is. What has no meaning here (a mask, transparency, several pictures) is
refused in a sentence instead of being ignored.
"""

from __future__ import annotations

import base64
import re
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, Response

from engine_build.instruction import MAX_GARMENTS
from service.errors import (
    EngineUnavailable,
    Gone,
    InvalidRequest,
    ServiceError,
    StoreUnavailable,
    UnprocessableRequest,
    UnsupportedMediaType,
)
from service.gateway.http.bodies import file_bytes, form_of, media_type
from service.gateway.http.limits import release_upload
from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.routes.state import Parts, Who, asked_of
from service.gateway.shapes import compat_views, error_samples, openapi
from service.gateway.shapes.request import (
    Options,
    RequestedGarment,
    RequestedTryOn,
    too_many_garments,
    unknown_field,
    validate,
)
from service.jobs.schemas import TERMINAL, JobRecord
from service.retry_after import SHORTLY
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["compatible"], dependencies=[KNOWN_QUERY])

# OpenAI's words for quality, as JPEG and WebP quality.
QUALITIES = {
    "low": 70,
    "medium": 85,
    "high": 92,
    "auto": 90,
    "standard": 90,
    "hd": 95,
    "xhigh": 95,
    "max": 97,
}
IGNORED = ("model", "user", "input_fidelity", "moderation", "safety_identifier")
KNOWN = (
    *IGNORED,
    *("prompt", "n", "size", "quality", "output_format", "output_compression", "response_format"),
    *("background", "stream", "partial_images", "seed"),
)

# How a job may end, as an answer to a call that waited for it; whatever is not here is on our side.
FAILURES: dict[str, type[ServiceError]] = {
    "canceled": UnprocessableRequest,
    "unprocessable-request": UnprocessableRequest,
    "out-of-memory": UnprocessableRequest,
    "input-erased": Gone,
    "store-unavailable": StoreUnavailable,
}


@router.post(
    "/images/edits",
    summary="OpenAI: edit images",
    response_model=compat_views.OpenAIImages,
    responses=error_samples.responses(
        *error_samples.ASKED,
        *error_samples.BODY,
        *error_samples.FORM,
        *error_samples.PICTURE,
        *error_samples.ADMISSION,
        *("missing-person", "missing-garment", "too-many-garments", "unsupported-parameter", "unsupported-size"),
        *("canceled", "unprocessable-request", "out-of-memory", "engine-failed", "worker-lost", "input-damaged"),
        *("deadline-exceeded", "try-on-erased", "input-erased", "result-expired"),
        dialect="openai",
    ),
    openapi_extra=openapi.OPENAI_BODY,
)
async def edit_images(request: Request, parts: Parts, caller: Who) -> Response:
    """image[]: first the person, then 1 to 6 garments, all worn at once; `prompt` adds your words."""
    asked = asked_of(request, parts, caller)
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("Send multipart/form-data.", code="unsupported-content-type")
    async with form_of(request, parts.settings) as form:
        requested, as_url = await _requested(form, parts.settings)
    submitted = await parts.tryons.submit(requested, asked)
    del requested
    release_upload(request)
    record = await parts.tryons.wait(caller, submitted.job_id, asked.deadline_s + 5)
    if record.status != "succeeded":
        raise failure(record)
    view = parts.tryons.view(record)
    image = compat_views.OpenAIImage(revised_prompt=record.spec.instruction)
    if as_url:
        image.url = str(request.base_url).rstrip("/") + (view.result.url if view.result else "")
    else:
        data, _ = await parts.tryons.picture(record)
        image.b64_json = base64.b64encode(data).decode()
    size = f"{record.result.width}x{record.result.height}" if record.result else ""
    answer = compat_views.OpenAIImages(
        created=int(time.time()), data=[image], output_format=record.spec.output_format, size=size
    )
    return JSONResponse(answer.model_dump(exclude_none=True))


def failure(record: JobRecord) -> ServiceError:
    """Why a synchronous call has no picture to return."""
    if record.status not in TERMINAL or record.status == "expired":
        return EngineUnavailable(
            "No worker finished the picture in time; try again.", code="deadline-exceeded", retry_after=SHORTLY
        )
    detail = record.error.message if record.error else f"The try-on ended as {record.status}."
    code = record.error.code if record.error else record.status
    error = FAILURES.get(code, ServiceError)(detail, code=code)
    error.retryable = record.error.retryable if record.error else False
    return error


async def _requested(form: FormData, settings: Settings) -> tuple[RequestedTryOn, bool]:
    texts: dict[str, str] = {}
    images: list[UploadFile] = []
    for name, value in form.multi_items():
        if isinstance(value, str):
            texts[name] = value
        elif name in ("image", "image[]"):
            images.append(value)
        elif name == "mask":
            raise UnprocessableRequest(
                "mask: try-on needs no mask; leave it out.", code="unsupported-parameter", pointer="mask"
            )
        else:
            raise unknown_field(name, ("image[]", *KNOWN))
    for name in texts:
        if name in ("image", "image[]"):
            raise InvalidRequest("image must be a file.", code="invalid-field", pointer="image")
        if name not in KNOWN:
            raise unknown_field(name, ("image[]", *KNOWN))
    _refuse_other(texts)
    if not images:
        raise UnprocessableRequest("Send the person as the first image.", code="missing-person", pointer="image")
    if len(images) == 1:
        raise UnprocessableRequest(
            "Send at least one garment image after the person.", code="missing-garment", pointer="image"
        )
    if len(images) > 1 + MAX_GARMENTS:
        raise too_many_garments("image")
    options = _options(texts)
    person, *others = [await file_bytes(upload, f"image[{index}]", settings) for index, upload in enumerate(images)]
    garments = [RequestedGarment(data, name=f"image[{index}]") for index, data in enumerate(others, start=1)]
    return RequestedTryOn(person, tuple(garments), options, person_name="image[0]"), texts.get(
        "response_format"
    ) == "url"


def _refuse_other(texts: dict[str, str]) -> None:
    """Raises UnprocessableRequest for what this service does not do."""
    wants = {
        "n": texts.get("n", "1") not in ("1", ""),
        "background": texts.get("background", "auto") not in ("auto", "opaque", ""),
        "stream": texts.get("stream", "false").lower() not in ("false", ""),
        "partial_images": texts.get("partial_images", "0") not in ("0", ""),
        "response_format": texts.get("response_format", "b64_json") not in ("b64_json", "url"),
    }
    for name, refused in wants.items():
        if refused:
            raise UnprocessableRequest(
                f"{name}: {texts[name][:40]!r} is not offered; one opaque picture is returned at the end.",
                code="unsupported-parameter",
                pointer=name,
            )


def _options(texts: dict[str, str]) -> Options:
    values: dict[str, Any] = {"prompt": texts.get("prompt", "")}
    size = texts.get("size", "auto")
    if size not in ("auto", ""):
        values["size"] = size
    if "output_format" in texts:
        values["output_format"] = texts["output_format"]
    quality = texts.get("quality", "auto")
    if quality not in QUALITIES:
        raise UnprocessableRequest(
            f"quality: choose one of {', '.join(QUALITIES)}.", code="invalid-field", pointer="quality"
        )
    values["quality"] = QUALITIES[quality]
    for name, field in (("output_compression", "quality"), ("seed", "seed")):
        if name in texts:
            if not re.fullmatch(r"\d{1,10}", texts[name], re.ASCII):
                raise UnprocessableRequest(f"{name}: must be a whole number.", code="invalid-field", pointer=name)
            values[field] = max(1, int(texts[name])) if field == "quality" else int(texts[name])
    return validate(Options, values)
