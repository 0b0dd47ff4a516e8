"""FASHN's shape: `POST /v1/run` with model_name tryon-v1.6 and `GET /v1/status/{id}`.

Categories: tops stay tops, one-pieces become dresses and bottoms become pants, which most of them are;
the native API can say skirts. Pictures come as data: URLs or base64; this service does not fetch addresses.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from service.errors import UnprocessableRequest, UnsupportedMediaType
from service.gateway.http.bodies import decode_image_text, empty_image, media_type, read_json
from service.gateway.http.limits import release_upload
from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.routes.state import Parts, Who, asked_of
from service.gateway.shapes import compat_views, error_samples, openapi, views
from service.gateway.shapes.request import (
    MAX_SEED,
    MAX_URL,
    Body,
    FashnReceiver,
    Options,
    RequestedGarment,
    RequestedTryOn,
    validate,
)
from service.jobs.fashn_words import prediction
from service.jobs.schemas import JobRecord

router = APIRouter(prefix="/v1", tags=["compatible"], dependencies=[KNOWN_QUERY])

CATEGORIES = {"auto": "auto", "tops": "tops", "bottoms": "pants", "one-pieces": "dresses"}
RETURN_BASE64 = "fashn_return_base64"
FASHN_WEBHOOK_HELP = "Told `{id, status, output, error}` when the prediction ends: an https address of a public host."


class FashnInputs(Body):
    """Inputs of tryon-v1.6; mode, moderation_level, garment_photo_type, segmentation_free change nothing."""

    model_image: str = Field(min_length=1, json_schema_extra={"format": "image"})
    garment_image: str = Field(min_length=1, json_schema_extra={"format": "image"})
    category: Literal["auto", "tops", "bottoms", "one-pieces"] = "auto"
    garment_photo_type: Literal["auto", "flat-lay", "model"] = "auto"
    mode: Literal["performance", "balanced", "quality"] = "balanced"
    moderation_level: Literal["conservative", "permissive", "none"] = "permissive"
    num_samples: Literal[1] = 1
    output_format: Literal["png", "jpeg"] = "png"
    return_base64: bool = False
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    segmentation_free: bool = True


class FashnRequest(Body):
    """The body of POST /v1/run."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: Literal["tryon-v1.6"]
    inputs: FashnInputs
    webhook_url: str | None = Field(None, max_length=MAX_URL)


@router.post(
    "/run",
    summary="FASHN: run a prediction",
    response_model=compat_views.FashnRun,
    responses=error_samples.responses(
        *error_samples.ASKED,
        *error_samples.BODY,
        *("unknown-field", "invalid-field"),
        *error_samples.ENCODED,
        *error_samples.PICTURE,
        *error_samples.ADMISSION,
        *error_samples.WEBHOOK,
        "conflicting-fields",
        dialect="fashn",
    ),
    openapi_extra=openapi.FASHN_BODY,
)
async def run_prediction(
    request: Request,
    parts: Parts,
    caller: Who,
    webhook_url: Annotated[
        str | None, Query(max_length=MAX_URL, description=FASHN_WEBHOOK_HELP, examples=["https://shop.example/hook"])
    ] = None,
) -> Response:
    """One person, one garment; the id is a try-on's id, readable in both shapes."""
    asked = asked_of(request, parts, caller)
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("Send application/json.", code="unsupported-content-type")
    body = validate(FashnRequest, await read_json(request))
    inputs = body.inputs
    pictures = {}
    for name in ("model_image", "garment_image"):
        pictures[name] = await asyncio.to_thread(decode_image_text, getattr(inputs, name), name, parts.settings)
        if not pictures[name]:
            raise empty_image(name)
    garment = RequestedGarment(pictures["garment_image"], category=CATEGORIES[inputs.category], name="garment_image")
    requested = RequestedTryOn(
        person=pictures["model_image"],
        garments=(garment,),
        person_name="model_image",
        fashn_receiver=FashnReceiver(parts.address.of(request), inline=inputs.return_base64),
        options=validate(
            Options,
            {
                "seed": inputs.seed,
                "output_format": inputs.output_format,
                "metadata": {RETURN_BASE64: "true"} if inputs.return_base64 else {},
                "webhook_url": _one_of(webhook_url, body.webhook_url),
            },
        ),
    )
    submitted = await parts.tryons.submit(requested, asked)
    release_upload(request)
    return JSONResponse(compat_views.FashnRun(id=submitted.job_id).model_dump())


@router.get(
    "/status/{id}",
    summary="FASHN: status of a prediction",
    response_model=compat_views.FashnStatus,
    responses=error_samples.responses(*error_samples.ASKED, *error_samples.JOB, "result-expired", dialect="fashn"),
)
async def prediction_status(
    id: Annotated[str, Path(min_length=1, max_length=64, examples=[views.EXAMPLE_ID])],
    request: Request,
    parts: Parts,
    caller: Who,
) -> Response:
    """starting, in_queue, processing, completed, failed, canceled or time_out."""
    record = await parts.tryons.get(caller, id)
    output = await _output(request, parts, record) if record.status == "succeeded" else None
    answer = compat_views.FashnStatus(**prediction(record, output))
    return JSONResponse(answer.model_dump(), headers={"x-fashn-credits-used": "0"})


def _one_of(in_query: str | None, in_body: str | None) -> str | None:
    """The receiver, which FASHN's clients name in the query. Raises UnprocessableRequest when two are named."""
    if in_query and in_body and in_query != in_body:
        raise UnprocessableRequest(
            "webhook_url: the query and the body name different receivers; name one.",
            code="conflicting-fields",
            pointer="webhook_url",
        )
    return in_query or in_body or None


async def _output(request: Request, parts: Parts, record: JobRecord) -> str:
    if record.spec.metadata.get(RETURN_BASE64) == "true":
        data, kind = await parts.tryons.picture(record)
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    address, _ = parts.tryons.image_address(record)
    return parts.address.of(request) + (address or "")
