"""From a request body to a `Draft`: what the caller asked for, checked for shape but not yet for pictures.

Multipart and JSON meet here. Uploads stay in spooled temporary files until they are needed; JSON is refused by
its structure before it is parsed, so that a hostile document cannot hold the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import (
    InvalidImage,
    InvalidRequest,
    PayloadTooLarge,
    ServiceError,
    UnprocessableRequest,
    UnsupportedMediaType,
)
from service.jobs.schemas import Category, OutputFormat, Priority
from service.settings import Settings

MAX_GARMENTS = 6
MAX_PROMPT = 2000
MAX_LAYER = 120
MAX_FIELDS = 64
MAX_FIELD_BYTES = 256 * 1024
MAX_JSON_STRUCTURE = 20_000
SPOOL_BYTES = 4 * 1024 * 1024
CATEGORIES: tuple[str, ...] = get_args(Category)
SKU = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

Model = TypeVar("Model", bound=BaseModel)

_SIZE = re.compile(r"^(\d{2,5})x(\d{2,5})$", re.ASCII)
_DATA_URL = re.compile(r"^data:([a-z0-9.+-]+/[a-z0-9.+-]+)?(;[^,;]*)*;base64,", re.IGNORECASE | re.ASCII)
_WEB_URL = re.compile(r"^\s*(https?|ftp|file)://", re.IGNORECASE)


@dataclass(frozen=True)
class GarmentDraft:
    """One garment: bytes of an upload, or the sku of a catalogue garment."""

    data: bytes | None
    sku: str | None = None
    category: str = "auto"
    layer: str | None = None


class Options(BaseModel):
    """What may be said beside the pictures; the same names in a form, in JSON and in the `request` field."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field("", max_length=MAX_PROMPT, description="Your own words, in any language.")
    size: str | None = Field(
        None,
        pattern=r"^[0-9]{2,5}x[0-9]{2,5}$",
        description="Width x height in pixels.",
        examples=["768x1024"],
    )
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="Same seed, same inputs: same picture.")
    steps: int | None = Field(None, ge=1, le=100, description="Denoising steps; the model has a default.")
    output_format: OutputFormat = "jpeg"
    quality: int = Field(90, ge=1, le=100, description="JPEG and WebP quality.")
    priority: Priority = "normal"
    metadata: dict[str, str] = Field(
        default_factory=dict, description="Returned as given; at most 16 entries."
    )
    webhook_url: str | None = Field(None, max_length=2048)

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in value.items()):
            raise ValueError("at most 16 entries, keys up to 64 and values up to 512 characters")
        return value

    @field_validator("prompt", "metadata", "webhook_url")
    @classmethod
    def _encodable(cls, value: Any) -> Any:
        texts = [*value.keys(), *value.values()] if isinstance(value, dict) else [value or ""]
        if any("\x00" in t or (not t.isprintable() and _has_surrogate(t)) for t in texts):
            raise ValueError("must be text without NUL or lone surrogates")
        return value

    def pixels(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None."""
        found = _SIZE.match(self.size or "")
        return (int(found[1]), int(found[2])) if found else None


class JsonGarment(BaseModel):
    """One garment of a JSON request: a picture or a sku, and what it is."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(
        None, min_length=1, description="data: URL or base64.", json_schema_extra={"format": "image"}
    )
    sku: str | None = Field(None, pattern=SKU, description="A garment put in the catalogue before.")
    category: Category = "auto"
    layer: str | None = Field(
        None, max_length=MAX_LAYER, description="How it is worn, such as `open`, `tucked in`."
    )


class JsonTryOn(Options):
    """The JSON form of a try-on request."""

    person: str = Field(
        min_length=1, description="data: URL or base64.", json_schema_extra={"format": "image"}
    )
    garments: list[JsonGarment] = Field(min_length=1, max_length=MAX_GARMENTS)

    @field_validator("garments", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"image": item} if isinstance(item, str) else item for item in value]


class _RequestGarment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str | None = None
    sku: str | None = Field(None, pattern=SKU)
    category: Category = "auto"
    layer: str | None = Field(None, max_length=MAX_LAYER)


class _RequestField(Options):
    """The `request` part of a multipart request: everything in one JSON value."""

    garments: list[_RequestGarment] | None = None


@dataclass(frozen=True)
class Draft:
    """A request read and checked for shape."""

    person: bytes
    garments: tuple[GarmentDraft, ...]
    options: Options = field(default_factory=Options)

    def digest(self) -> str:
        """SHA-256 over the meaning of the request, so that a retry with another multipart boundary matches."""
        parts: dict[str, Any] = self.options.model_dump(mode="json")
        parts["person"] = hashlib.sha256(self.person).hexdigest()
        parts["garments"] = [
            [g.sku or hashlib.sha256(g.data or b"").hexdigest(), g.category, g.layer] for g in self.garments
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def media_type(request: Request) -> str:
    """The bare media type of the request body, lower case."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_draft(request: Request, settings: Settings) -> Draft:
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


class form_of:
    """`async with form_of(request, settings) as form`: a parsed form whose files are closed afterwards."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._form: FormData | None = None

    async def __aenter__(self) -> FormData:
        parser = MultiPartParser(
            self._request.headers,
            self._request.stream(),
            max_files=self._settings.max_images + 8,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        parser.spool_max_size = SPOOL_BYTES
        try:
            self._form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise PayloadTooLarge(
                    f"At most {self._settings.max_images} pictures and {MAX_FIELDS} fields in one request.",
                    code="too-many-parts",
                ) from error
            if "maximum size" in error.message:
                raise PayloadTooLarge(
                    f"A text field is limited to {MAX_FIELD_BYTES // 1024} kB; send pictures as file parts.",
                    code="field-too-large",
                ) from error
            raise InvalidRequest(f"The multipart body cannot be read: {error.message}") from error
        return self._form

    async def __aexit__(self, *_: object) -> None:
        if self._form is not None:
            await self._form.close()


async def read_json(request: Request) -> Any:
    """The JSON body. Raises InvalidRequest when it is not JSON or has an absurd number of values."""
    chunks: list[bytes] = []
    structure = 0
    async for chunk in request.stream():
        structure += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{") + chunk.count(b":")
        if structure > MAX_JSON_STRUCTURE:
            raise InvalidRequest(f"The JSON has more than {MAX_JSON_STRUCTURE} values.", code="invalid-json")
        chunks.append(chunk)
    try:
        return json.loads(b"".join(chunks), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid-json") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def validate(model: type[Model], value: Any) -> Model:
    """`value` as `model`. Raises InvalidRequest (unknown or missing shape) or UnprocessableRequest (bad value)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise of_validation(error) from error


def of_validation(error: ValidationError) -> ServiceError:
    """The first thing wrong, as one sentence that names the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "body"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"There is no field {name!r}.", code="unknown-field", pointer=name)
    if first["type"] == "missing" and name == "person":
        return _no_person()
    if first["loc"] == ("garments",) and first["type"] in ("missing", "too_short"):
        return _no_garment()
    if first["loc"] == ("garments",) and first["type"] == "too_long":
        return _too_many_garments()
    if first["type"].endswith("_type") or first["type"] == "missing":
        return InvalidRequest(f"{name}: {message}.", code="invalid-field", pointer=name)
    return UnprocessableRequest(f"{name}: {message}.", code="invalid-field", pointer=name)


def _no_person() -> ServiceError:
    return UnprocessableRequest(
        "Send one photo of a person in the part named person.", code="missing-person", pointer="person"
    )


def _no_garment() -> ServiceError:
    return UnprocessableRequest(
        "Send 1 to 6 garment photos in parts named garment, or skus of catalogue garments.",
        code="missing-garment",
        pointer="garment",
    )


def _too_many_garments() -> ServiceError:
    return UnprocessableRequest(
        f"At most {MAX_GARMENTS} garments in one try-on; leave some out.",
        code="too-many-garments",
        pointer="garment",
    )


def decode_image_text(text: str, name: str, settings: Settings) -> bytes:
    """The bytes of a data: URL or plain base64.

    Raises UnprocessableRequest for a web URL or broken base64, PayloadTooLarge over the limit of one picture.
    """
    if _WEB_URL.match(text):
        raise UnprocessableRequest(
            f"{name}: this service does not fetch URLs; send the picture as a data: URL or base64.",
            code="image-url-refused",
            pointer=name,
        )
    found = _DATA_URL.match(text[:200])
    encoded = text[found.end() :] if found else text
    if len(encoded) * 3 // 4 > settings.image_limit_bytes + 2:
        raise too_large(name, settings)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnprocessableRequest(
            f"{name}: not a data: URL with base64 and not base64.", code="invalid-base64", pointer=name
        ) from error


def too_large(name: str, settings: Settings) -> ServiceError:
    """One picture over its limit."""
    limit = settings.image_limit_bytes // 2**20
    return PayloadTooLarge(
        f"{name}: one picture may have at most {limit} MB; send a smaller or more compressed one.",
        code="image-too-large",
        pointer=name,
    )


async def file_bytes(upload: UploadFile, name: str, settings: Settings) -> bytes:
    """The bytes of one uploaded file. Raises PayloadTooLarge over the limit, InvalidImage when empty."""
    if (upload.size or 0) > settings.image_limit_bytes:
        raise too_large(name, settings)
    data = await upload.read()
    if not data:
        raise empty_image(name)
    return data


def empty_image(name: str) -> InvalidImage:
    """A file part without a byte in it."""
    return InvalidImage(f"{name}: the file is empty; send a picture.", code="empty-image", pointer=name)


def _from_json(body: JsonTryOn, settings: Settings) -> Draft:
    garments: list[GarmentDraft] = []
    for index, item in enumerate(body.garments):
        name = f"garments.{index}"
        if (item.image is None) == (item.sku is None):
            raise UnprocessableRequest(
                f"{name}: give either image or sku.", code="invalid-field", pointer=name
            )
        data = None
        if item.image is not None:
            data = decode_image_text(item.image, name, settings)
            if not data:
                raise empty_image(name)
        garments.append(GarmentDraft(data, item.sku, item.category, item.layer or None))
    person = decode_image_text(body.person, "person", settings)
    if not person:
        raise empty_image("person")
    options = Options.model_validate(body.model_dump(exclude={"person", "garments"}))
    return Draft(person, tuple(garments), options)


_LISTS = ("categories", "layers", "skus")
_PLAIN = ("prompt", "size", "seed", "steps", "output_format", "quality", "priority", "webhook_url")


async def _from_form(form: FormData, settings: Settings) -> Draft:
    texts: dict[str, list[str]] = {}
    files: dict[str, list[UploadFile]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            texts.setdefault(name, []).append(value)
        else:
            files.setdefault(name, []).append(value)
    for name in ("person", "garment"):
        if name in texts:
            raise InvalidRequest(
                f"{name} must be a file part (with a filename), not text.", code="invalid-field", pointer=name
            )
    if "request" in texts:
        return await _from_request_field(texts, files, settings)
    return await _from_plain_fields(texts, files, settings)


async def _from_plain_fields(
    texts: dict[str, list[str]], files: dict[str, list[UploadFile]], settings: Settings
) -> Draft:
    _only(files, ("person", "garment"))
    _only(texts, (*_PLAIN, *_LISTS, "metadata"))
    values: dict[str, Any] = {}
    for name in _PLAIN:
        if name in texts:
            values[name] = _single(texts[name], name)
    if "metadata" in texts:
        values["metadata"] = _json_text(_single(texts["metadata"], "metadata"), "metadata")
    for name in ("seed", "steps", "quality"):
        if name in values:
            values[name] = _integer(values[name], name)
    options = validate(Options, values)

    uploads = files.get("garment", [])
    skus = _listed(texts.get("skus", []))
    count = len(uploads) + len(skus)
    if count > MAX_GARMENTS:
        raise _too_many_garments()
    person = await _person(files, settings)
    if count == 0:
        raise _no_garment()
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
            raise UnprocessableRequest(
                f"skus: {sku[:40]!r} is not a sku.", code="invalid-field", pointer="skus"
            )
        sources.append((None, sku))
    garments = tuple(
        GarmentDraft(data, sku, category, layer or None)
        for (data, sku), category, layer in zip(sources, categories, layers, strict=True)
    )
    return Draft(person, garments, options)


async def _from_request_field(
    texts: dict[str, list[str]], files: dict[str, list[UploadFile]], settings: Settings
) -> Draft:
    _only(texts, ("request",))
    body = validate(_RequestField, _json_text(_single(texts["request"], "request"), "request"))
    named = {name: uploads for name, uploads in files.items() if name != "person"}
    for name, uploads in named.items():
        if name != "garment" and len(uploads) > 1:
            raise InvalidRequest(f"There is more than one file {name!r}.", code="invalid-field", pointer=name)
    count = sum(len(uploads) for uploads in named.values()) if body.garments is None else len(body.garments)
    if count > MAX_GARMENTS:
        raise _too_many_garments()
    person = await _person(files, settings)
    if count == 0:
        raise _no_garment()
    queue = list(named.pop("garment", []))
    wanted = body.garments
    if wanted is None:
        wanted = [_RequestGarment() for _ in queue] + [_RequestGarment(file=name) for name in named]
    garments: list[GarmentDraft] = []
    for index, item in enumerate(wanted):
        name = f"garments.{index}"
        if item.sku is not None and item.file is not None:
            raise UnprocessableRequest(
                f"{name}: give either file or sku.", code="invalid-field", pointer=name
            )
        data = None
        if item.sku is None:
            found = named.pop(item.file, None) if item.file is not None else None
            upload = found[0] if found else (queue.pop(0) if item.file is None and queue else None)
            if upload is None:
                raise UnprocessableRequest(
                    f"{name}: there is no file part {item.file or 'garment'!r} left for it.",
                    code="missing-garment",
                    pointer=name,
                )
            data = await file_bytes(upload, name, settings)
        garments.append(GarmentDraft(data, item.sku, item.category, item.layer or None))
    if queue or named:
        raise InvalidRequest(
            "There are more garment files than garments in request.", code="invalid-field", pointer="garments"
        )
    return Draft(person, tuple(garments), Options.model_validate(body.model_dump(exclude={"garments"})))


async def _person(files: dict[str, list[UploadFile]], settings: Settings) -> bytes:
    uploads = files.get("person", [])
    if not uploads:
        raise _no_person()
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
            raise InvalidRequest(
                f"There is no field {name[:64]!r} here.", code="unknown-field", pointer=name[:64]
            )


def _single(values: list[str], name: str) -> str:
    if len(values) > 1:
        raise InvalidRequest(f"{name} was sent {len(values)} times.", code="invalid-field", pointer=name)
    return values[0]


def _integer(text: str, name: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text.strip(), re.ASCII):
        raise UnprocessableRequest(f"{name}: must be a whole number.", code="invalid-field", pointer=name)
    return int(text)


def _json_text(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{name}: not valid JSON: {error}.", code="invalid-json", pointer=name
        ) from error


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


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
