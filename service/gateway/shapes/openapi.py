"""The parts of the OpenAPI document that FastAPI cannot see, because bodies are read as streams."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from engine_build.instruction import MAX_GARMENTS
from service.gateway.shapes import edits, forms
from service.gateway.shapes.request import JsonTryOn
from service.gateway.shapes.views import Problem

SAMPLE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAGElEQVR42mM8"
    "wYAfMDGMKhhVMKpghCoAAMCFAQivNpqkAAAAAElFTkSuQmCC"
)
REF = "#/components/schemas/"

_HEADER_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Same key and same body: the same job. Another body: 422.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "example": "3f1c7f0e-1d1b-4b7a-9a54-5d7c9d0f8b11",
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "RFC 7240 `wait=N`: answer with 200 when the job ends within N seconds (at most 60).",
        "schema": {"type": "string"},
        "example": "wait=20",
    },
    {
        "name": "Cancel-After",
        "in": "header",
        "description": "A deadline: the job is given up after this long (`90`, `90s`, `2m`), at most 15 minutes.",
        "schema": {"type": "string", "pattern": r"^([1-9][0-9]?|[1-8][0-9]{2})s?$|^([1-9]|1[0-5])m$"},
        "example": "90s",
    },
]

PREFER: dict[str, Any] = {"parameters": _HEADER_PARAMETERS[1:2]}

TRY_ON_BODY: dict[str, Any] = {
    "parameters": _HEADER_PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": forms.TRY_ON_FORM,
                "encoding": {name: {"style": "form", "explode": True} for name in forms.LISTS},
            },
            "application/json": {
                "schema": {"$ref": REF + "JsonTryOn"},
                "example": {
                    "person": SAMPLE,
                    "garments": [
                        {"image": SAMPLE, "category": "tops", "layer": "tucked in"},
                        {"sku": "COAT-7"},
                    ],
                    "prompt": "keep the coat open",
                    "seed": 7,
                },
            },
        },
    },
}

UPLOADED = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/avif")
GARMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": forms.GARMENT_FIELDS,
                }
            },
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in UPLOADED},
        },
    }
}

OPENAI_BODY: dict[str, Any] = {
    "parameters": _HEADER_PARAMETERS[:1],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image[]"],
                    "additionalProperties": False,
                    "properties": {
                        "image[]": {
                            "type": "array",
                            "items": forms.PICTURE,
                            "minItems": 2,
                            "maxItems": 1 + MAX_GARMENTS,
                            "description": "First the person, then the garments; `image` is the same field.",
                        },
                        **edits.FIELDS,
                    },
                }
            }
        },
    },
}

FASHN_BODY: dict[str, Any] = {
    "parameters": _HEADER_PARAMETERS[:1],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF + "FashnRequest"},
                "example": {
                    "model_name": "tryon-v1.6",
                    "inputs": {"model_image": SAMPLE, "garment_image": SAMPLE, "category": "tops"},
                },
            }
        },
    },
}

LAST_EVENT_ID: dict[str, Any] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the last event seen; everything after it is sent again.",
            "schema": {"type": "string", "pattern": "^([0-9]{1,13}-[0-9]{1,6})?$"},
            "example": "1795287600000-0",
        }
    ]
}

EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "One event; `data` is JSON, in the last event with the whole try-on as `try_on`.",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {
            "type": "string",
            "enum": ["queued", "processing", "progress", "succeeded", "failed", "canceled", "expired"],
        },
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}

EVENTS_EXAMPLE = (
    'id: 1795287600000-0\nevent: queued\ndata: {"status":"queued","position":0}\n\n'
    'id: 1795287600400-0\nevent: progress\ndata: {"stage":"denoise","step":1,"steps":4,"preview":"…"}\n\n'
)

_ALWAYS: dict[str, Any] = {
    "X-Request-Id": {"description": "Yours when it is safe to log, else a new one.", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds by stage.", "schema": {"type": "string"}},
}

LOCATION: dict[str, Any] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}

PICTURE_HEADERS: dict[str, Any] = {
    "ETag": {"description": "Names these bytes.", "schema": {"type": "string"}},
    "Cache-Control": {"description": "Private, for an hour.", "schema": {"type": "string"}},
}

PICTURE_CONTENT: dict[str, Any] = {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png", "image/webp")
}

PART_HEADERS: dict[str, Any] = PICTURE_HEADERS | {
    "Content-Range": {"description": "Which bytes of how many.", "schema": {"type": "string"}}
}

PICTURE_CONDITIONS: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of the picture you have: 304 when it is the one.",
            "schema": {"type": "string"},
            "example": '"0f3c9a"',
        },
        {
            "name": "Range",
            "in": "header",
            "description": "One part in bytes: 206. Several parts, or none that can be read: the whole.",
            "schema": {"type": "string"},
            "example": "bytes=0-1023",
        },
        {
            "name": "If-Range",
            "in": "header",
            "description": "The ETag that Range is meant for; the whole when the picture is another.",
            "schema": {"type": "string"},
            "example": '"0f3c9a"',
        },
    ]
}

JOB_HEADERS: dict[str, Any] = {
    "Location": {"description": "The try-on.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds until it is worth asking.", "schema": {"type": "integer"}},
    "Preference-Applied": {"description": "RFC 7240.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true` when the job existed under this Idempotency-Key.",
        "schema": {"type": "string"},
    },
}


def install(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Make `app.openapi()` complete: schemas of bodies and problems, and the two ways to send a key."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            components = made.setdefault("components", {})
            schemas: dict[str, Any] = components.setdefault("schemas", {})
            models: tuple[type[BaseModel], ...] = (JsonTryOn, Problem, *bodies)
            for model in models:
                schema = model.model_json_schema(ref_template=REF + "{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            made["security"] = [{}, {"bearer": []}, {"header": []}]
            _default_validation_errors(made)
            _headers_of_every_answer(made)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _headers_of_every_answer(made: dict[str, Any]) -> None:
    for operations in made["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                answer["headers"] = answer.get("headers", {}) | _ALWAYS


def _default_validation_errors(made: dict[str, Any]) -> None:
    """FastAPI adds its own 422 to every operation with parameters; ours are problems, and mostly 400."""
    for operations in made["paths"].values():
        for operation in operations.values():
            answer = operation.get("responses", {}).get("422", {})
            reference = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
            if reference.endswith("HTTPValidationError"):
                del operation["responses"]["422"]
