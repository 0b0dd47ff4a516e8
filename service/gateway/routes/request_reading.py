"""From a request body to a `RequestedTryOn`: multipart and JSON meet here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from engine_build.instruction import MAX_GARMENTS
from service.errors import InvalidRequest, UnprocessableRequest, UnsupportedMediaType
from service.gateway.http.bodies import (
    decode_image_text,
    empty_image,
    file_bytes,
    form_of,
    json_text,
    media_type,
    read_json,
)
from service.gateway.shapes import forms
from service.gateway.shapes.request import (
    CATEGORIES,
    MAX_LAYER,
    SKU,
    JsonTryOn,
    Options,
    RequestedGarment,
    RequestedTryOn,
    RequestField,
    RequestFieldGarment,
    no_garment,
    no_person,
    too_many_garments,
    unknown_field,
    validate,
)
from service.settings import Settings


async def read_requested(request: Request, settings: Settings) -> RequestedTryOn:
    """Read a try-on request in either form.

    Raises InvalidRequest, UnprocessableRequest, InvalidImage, PayloadTooLarge, UnsupportedMediaType.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        async with form_of(request, settings) as form:
            return await _from_form(form, settings)
    if kind == "application/json":
        return await asyncio.to_thread(_from_json, validate(JsonTryOn, await read_json(request)), settings)
    raise UnsupportedMediaType(
        "Send multipart/form-data with the parts person and garment, or application/json.",
        code="unsupported-content-type",
    )


def _from_json(body: JsonTryOn, settings: Settings) -> RequestedTryOn:
    garments: list[RequestedGarment] = []
    for index, item in enumerate(body.garments):
        name = f"garments.{index}"
        if (item.image is None) == (item.sku is None):
            raise UnprocessableRequest(f"{name}: give either image or sku.", code="invalid-field", pointer=name)
        data = None
        if item.image is not None:
            data = decode_image_text(item.image, name, settings)
            if not data:
                raise empty_image(name)
        garments.append(RequestedGarment(data, item.sku, item.category, item.layer or None))
    person = decode_image_text(body.person, "person", settings)
    if not person:
        raise empty_image("person")
    options = Options.model_validate(body.model_dump(exclude={"person", "garments"}))
    return RequestedTryOn(person, tuple(garments), options)


async def _from_form(form: FormData, settings: Settings) -> RequestedTryOn:
    texts: dict[str, list[str]] = {}
    files: dict[str, list[UploadFile]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            texts.setdefault(name, []).append(value)
        else:
            files.setdefault(name, []).append(value)
    for name in forms.PICTURES:
        if name in texts:
            raise InvalidRequest(
                f"{name} must be a file part (with a filename), not text; with curl: -F {name}=@photo.jpg.",
                code="invalid-field",
                pointer=name,
            )
    if "request" in texts:
        return await _from_request_field(texts, files, settings)
    return await _from_plain_fields(texts, files, settings)


async def _from_plain_fields(
    texts: dict[str, list[str]], files: dict[str, list[UploadFile]], settings: Settings
) -> RequestedTryOn:
    _only(files, tuple(forms.PICTURES))
    _only(texts, (*forms.PICTURES, *sorted(forms.LISTS), *forms.PLAIN, *forms.JSON_VALUED))
    values: dict[str, Any] = {}
    for name in forms.PLAIN:
        if name in texts:
            values[name] = _single(texts[name], name)
    for name in forms.JSON_VALUED:
        if name in texts:
            values[name] = json_text(_single(texts[name], name), name)
    for name in forms.INTEGERS:
        if name in values:
            values[name] = _integer(values[name], name)
    options = validate(Options, values)

    uploads = files.get("garment", [])
    skus = _listed(texts.get("skus", []))
    count = len(uploads) + len(skus)
    if count > MAX_GARMENTS:
        raise too_many_garments()
    person = await _person(files, settings)
    if count == 0:
        raise no_garment()
    categories = _aligned(_listed(texts.get("categories", [])), count, "categories", "auto")
    layers = _aligned(_listed(texts.get("layers", []), keep_empty=True), count, "layers", "")
    for index, category in enumerate(categories):
        if category not in CATEGORIES:
            raise UnprocessableRequest(
                f"categories.{index}: choose one of {', '.join(CATEGORIES)}.",
                code="invalid-field",
                pointer=f"categories.{index}",
            )
    for index, layer in enumerate(layers):
        if len(layer) > MAX_LAYER:
            raise UnprocessableRequest(
                f"layers.{index}: at most {MAX_LAYER} characters.",
                code="invalid-field",
                pointer=f"layers.{index}",
            )
    sources: list[tuple[bytes | None, str | None]] = []
    for index, upload in enumerate(uploads):
        sources.append((await file_bytes(upload, f"garment.{index}", settings), None))
    for sku in skus:
        if not re.fullmatch(SKU, sku):
            raise UnprocessableRequest(f"skus: {sku[:40]!r} is not a sku.", code="invalid-field", pointer="skus")
        sources.append((None, sku))
    garments = tuple(
        RequestedGarment(data, sku, category, layer or None)
        for (data, sku), category, layer in zip(sources, categories, layers, strict=True)
    )
    return RequestedTryOn(person, garments, options)


async def _from_request_field(
    texts: dict[str, list[str]], files: dict[str, list[UploadFile]], settings: Settings
) -> RequestedTryOn:
    if len(texts) > 1:
        raise UnprocessableRequest(
            "request: it replaces every other text field; put all of them into it, or leave it out.",
            code="conflicting-fields",
            pointer="request",
        )
    body = validate(RequestField, json_text(_single(texts["request"], "request"), "request"))
    named = {name: uploads for name, uploads in files.items() if name != "person"}
    for name, uploads in named.items():
        if name != "garment" and len(uploads) > 1:
            raise InvalidRequest(f"There is more than one file {name!r}.", code="invalid-field", pointer=name)
    count = sum(len(uploads) for uploads in named.values()) if body.garments is None else len(body.garments)
    if count > MAX_GARMENTS:
        raise too_many_garments()
    person = await _person(files, settings)
    if count == 0:
        raise no_garment()
    left = {name: list(uploads) for name, uploads in named.items()}
    wanted = body.garments
    if wanted is None:
        wanted = [RequestFieldGarment(file=name) for name, uploads in left.items() for _ in uploads]
        wanted.sort(key=lambda item: item.file != "garment")
    garments: list[RequestedGarment] = []
    for index, item in enumerate(wanted):
        name = f"garments.{index}"
        if item.sku is not None and item.file is not None:
            raise UnprocessableRequest(f"{name}: give either file or sku.", code="invalid-field", pointer=name)
        data = None
        if item.sku is None:
            part = item.file or "garment"
            if not left.get(part):
                raise UnprocessableRequest(
                    f"{name}: there is no file part {part[:64]!r} left for it.", code="missing-garment", pointer=name
                )
            data = await file_bytes(left[part].pop(0), name, settings)
        garments.append(RequestedGarment(data, item.sku, item.category, item.layer or None))
    if any(left.values()):
        raise InvalidRequest(
            "There are more garment files than garments in request.", code="invalid-field", pointer="garments"
        )
    return RequestedTryOn(person, tuple(garments), Options.model_validate(body.model_dump(exclude={"garments"})))


async def _person(files: dict[str, list[UploadFile]], settings: Settings) -> bytes:
    uploads = files.get("person", [])
    if not uploads:
        raise no_person()
    if len(uploads) > 1:
        raise UnprocessableRequest(
            "Send exactly one person; garments go in parts named garment.",
            code="invalid-field",
            pointer="person",
        )
    return await file_bytes(uploads[0], "person", settings)


def _only(given: Iterable[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise unknown_field(name, known)


def _single(values: list[str], name: str) -> str:
    if len(values) > 1:
        raise InvalidRequest(f"{name} was sent {len(values)} times.", code="invalid-field", pointer=name)
    return values[0]


def _integer(text: str, name: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text.strip(), re.ASCII):
        raise UnprocessableRequest(f"{name}: must be a whole number.", code="invalid-field", pointer=name)
    return int(text)


def _listed(values: list[str], keep_empty: bool = False) -> list[str]:
    """Repeated fields, or one field with commas."""
    items = values[0].split(",") if len(values) == 1 else values
    stripped = [item.strip() for item in items]
    if keep_empty and any(stripped):
        return stripped
    return [item for item in stripped if item]


def _aligned(values: list[str], count: int, name: str, default: str) -> list[str]:
    """One value a garment. Raises UnprocessableRequest when their number differs."""
    if not values:
        return [default] * count
    if len(values) != count:
        raise UnprocessableRequest(
            f"{name}: {len(values)} given for {count} garments; give one each, in the same order.",
            code="invalid-field",
            pointer=name,
        )
    return values
