"""What a caller asked for: the models of a request, their limits, and the errors of a wrong shape.

`Options` is the one place where the options of a try-on stand, with type, bounds, description and `InForm`: reading
a body (`routes.request_reading`), the forms' fields (`shapes.forms`) and the OpenAPI document all follow it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine_build.instruction import MAX_GARMENTS, MAX_WORDS
from service.errors import InvalidRequest, ServiceError, UnprocessableRequest
from service.jobs.schemas import Category, OutputFormat, Priority

MAX_LAYER = 120
MAX_URL = 2048
MAX_SEED = 2**32 - 1
CATEGORIES: tuple[str, ...] = get_args(Category)
PRIORITY_HELP = "`high` goes ahead of the others; where keys are required, only for keys that have it (422 otherwise)."
WEBHOOK_HELP = "Told when the job ends (Standard Webhooks): an https address whose host is public (400 otherwise)."
SIZE_HELP = (
    "Width x height in pixels, within `max_pixels` and `size_multiple` of GET /v1/models. Left out: the shape of the "
    "person's photo at the model's own area."
)
SIZE = r"^[0-9]{2,5}x[0-9]{2,5}$"
SKU = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

Model = TypeVar("Model", bound=BaseModel)

# Words of a JSON Schema that tell of a field, whatever its type.
_TOLD = ("default", "description", "examples", "title")
_SHAPES = {
    "size": "write it as width x height in pixels, such as 768x1024",
    "sku": "1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or a digit",
}


@dataclass(frozen=True)
class RequestedGarment:
    """One garment: bytes of an upload, or the sku of a catalogue garment; `name` where its dialect has one for it."""

    data: bytes | None
    sku: str | None = None
    category: str = "auto"
    layer: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class FashnReceiver:
    """What the receiver of a webhook in FASHN's shape is told: this service's address is `base`, the picture comes
    inside the message where `inline`.
    """

    base: str
    inline: bool


@dataclass(frozen=True)
class InForm:
    """How an option stands in a form: as plain text or as the text of its JSON value (`as_json`), and what the
    OpenAPI document shows there beside its type and bounds.
    """

    description: str | None = None
    examples: tuple[str | int, ...] = ()
    as_json: bool = False


def _nullable(schema: dict[str, Any]) -> None:
    """Show that each field that may be left out may be null as well."""
    for name, declared in schema["properties"].items():
        kinds = declared.get("anyOf", ())
        if name not in schema.get("required", ()) and {"type": "null"} not in kinds:
            told = {word: declared.pop(word) for word in _TOLD if word in declared}
            schema["properties"][name] = {"anyOf": [declared, {"type": "null"}], **told}


class Body(BaseModel):
    """Base of what callers write as JSON: an unknown field is refused, and null is the same as nothing."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: said for name, said in value.items() if said is not None or name not in cls.model_fields}


class Options(Body):
    """What may be said beside the pictures; the same names in a form, in JSON and in the `request` field."""

    prompt: Annotated[str, InForm(examples=("keep the coat open",))] = Field(
        "", max_length=MAX_WORDS, description="Your own words, in any language."
    )
    size: Annotated[str | None, InForm(SIZE_HELP)] = Field(None, pattern=SIZE, description=SIZE_HELP)
    seed: Annotated[int | None, InForm(examples=(7,))] = Field(
        None, ge=0, le=MAX_SEED, description="Same seed, same inputs: same picture."
    )
    steps: Annotated[int | None, InForm()] = Field(
        None, ge=1, le=100, description="Denoising steps; the model has a default."
    )
    output_format: Annotated[OutputFormat, InForm()] = "jpeg"
    quality: Annotated[int, InForm()] = Field(90, ge=1, le=100, description="JPEG and WebP quality.")
    priority: Annotated[Priority, InForm(PRIORITY_HELP)] = Field("normal", description=PRIORITY_HELP)
    metadata: Annotated[
        dict[str, str], InForm("A JSON object of strings.", examples=('{"order": "42"}',), as_json=True)
    ] = Field(default_factory=dict, description="Returned as given; at most 16 entries.")
    webhook_url: Annotated[str | None, InForm(WEBHOOK_HELP)] = Field(None, max_length=MAX_URL, description=WEBHOOK_HELP)

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in value.items()):
            raise ValueError("at most 16 entries, keys up to 64 and values up to 512 characters")
        return value

    @field_validator("prompt", "metadata", "webhook_url")
    @classmethod
    def _without_nul(cls, value: Any) -> Any:
        texts = [*value.keys(), *value.values()] if isinstance(value, dict) else [value or ""]
        if any("\x00" in text for text in texts):
            raise ValueError("must not hold a NUL character")
        return value

    def pixels(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None."""
        if self.size is None:
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height)


class JsonGarment(Body):
    """One garment of a JSON request: a picture or a sku, and what it is."""

    image: str | None = Field(
        None, min_length=1, description="data: URL or base64.", json_schema_extra={"format": "image"}
    )
    sku: str | None = Field(None, pattern=SKU, description="A garment put in the catalogue before.")
    category: Category = "auto"
    layer: str | None = Field(None, max_length=MAX_LAYER, description="How it is worn, such as `open`, `tucked in`.")


class JsonTryOn(Options):
    """The JSON form of a try-on request."""

    person: str = Field(min_length=1, description="data: URL or base64.", json_schema_extra={"format": "image"})
    garments: list[JsonGarment] = Field(min_length=1, max_length=MAX_GARMENTS)

    @field_validator("garments", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"image": item} if isinstance(item, str) else item for item in value]


class RequestFieldGarment(Body):
    """One garment of the `request` part: the name of its file part (default: the next `garment`) or a sku."""

    file: str | None = None
    sku: str | None = Field(None, pattern=SKU)
    category: Category = "auto"
    layer: str | None = Field(None, max_length=MAX_LAYER)


class RequestField(Options):
    """The `request` part of a multipart request: everything in one JSON value."""

    garments: list[RequestFieldGarment] | None = None


@dataclass(frozen=True)
class RequestedTryOn:
    """A try-on request, read and checked for shape.

    `person_name` is what its dialect calls the person's picture, as `RequestedGarment.name` does. `fashn_receiver` is
    there where `webhook_url` expects FASHN's shape.
    """

    person: bytes
    garments: tuple[RequestedGarment, ...]
    options: Options = field(default_factory=Options)
    person_name: str = "person"
    fashn_receiver: FashnReceiver | None = None

    def garment_name(self, index: int) -> str:
        """What the caller calls a garment, for errors about it."""
        return self.garments[index].name or f"garments.{index}"

    def digest(self) -> str:
        """SHA-256 of the request's meaning: a retry with another multipart boundary matches."""
        parts: dict[str, Any] = self.options.model_dump(mode="json")
        parts["person"] = hashlib.sha256(self.person).hexdigest()
        parts["garments"] = [
            [g.sku or hashlib.sha256(g.data or b"").hexdigest(), g.category, g.layer] for g in self.garments
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def validate(model: type[Model], value: Any) -> Model:
    """`value` as `model`. Raises InvalidRequest (wrong shape) or UnprocessableRequest (wrong value)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise of_validation(error, model) from error


def of_validation(error: ValidationError, model: type[BaseModel]) -> ServiceError:
    """The first thing wrong, as one sentence that names the field; a misspelt field before what it leaves missing."""
    wrong = error.errors(include_url=False, include_input=False)
    first = next((each for each in wrong if each["type"] == "extra_forbidden"), wrong[0])
    name = ".".join(str(part) for part in first["loc"]) or "body"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return unknown_field(name, model.model_fields if len(first["loc"]) == 1 else ())
    if first["type"] == "string_pattern_mismatch":
        message = _SHAPES.get(str(first["loc"][-1]), message)
    if first["type"] == "missing" and name == "person":
        return UnprocessableRequest(
            "person: send one photo of a person, as a data: URL or base64.", code="missing-person", pointer=name
        )
    if first["loc"] == ("garments",) and first["type"] in ("missing", "too_short"):
        return UnprocessableRequest(
            f"garments: send a list of 1 to {MAX_GARMENTS}, each with its picture or a sku.",
            code="missing-garment",
            pointer=name,
        )
    if first["loc"] == ("garments",) and first["type"] == "too_long":
        return too_many_garments(name)
    if not first["loc"]:
        return InvalidRequest("body: send one JSON object; see /openapi.json.", code="invalid-field", pointer=name)
    if first["type"] == "missing":
        return InvalidRequest(f"{name}: {message}.", code="invalid-field", pointer=name)
    return UnprocessableRequest(f"{name}: {message}.", code="invalid-field", pointer=name)


def unknown_field(name: str, known: Iterable[str] = ()) -> InvalidRequest:
    """A name that is not known here; `known` are those that are."""
    others = f"the fields are {', '.join(known)}" if known else "see /openapi.json for those that exist"
    return InvalidRequest(f"There is no field {name[:64]!r} here; {others}.", code="unknown-field", pointer=name[:64])


def no_person() -> ServiceError:
    """No picture of a person came."""
    return UnprocessableRequest(
        "Send one photo of a person in the part named person.", code="missing-person", pointer="person"
    )


def no_garment() -> ServiceError:
    """Neither a picture nor a sku of a garment came."""
    return UnprocessableRequest(
        f"Send 1 to {MAX_GARMENTS} garment photos in parts named garment, or skus of catalogue garments.",
        code="missing-garment",
        pointer="garment",
    )


def too_many_garments(pointer: str = "garment") -> ServiceError:
    """More garments than a try-on can wear; `pointer` is the field they came in."""
    return UnprocessableRequest(
        f"At most {MAX_GARMENTS} garments in one try-on; leave some out.",
        code="too-many-garments",
        pointer=pointer,
    )
