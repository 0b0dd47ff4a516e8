"""The fields of multipart forms, once: what a form may hold, and how the OpenAPI document shows it.

Routes take their allow-lists from the names here, the document its schemas; the options of a try-on come from
`shapes.request.Options`, each as its `InForm` says.
"""

from __future__ import annotations

from typing import Any

from engine_build.instruction import MAX_GARMENTS
from service.gateway.shapes.request import CATEGORIES, MAX_LAYER, SKU, InForm, Options

Fields = dict[str, dict[str, Any]]

PICTURE: dict[str, Any] = {"type": "string", "contentMediaType": "image/*", "format": "binary"}

_BOUNDS = ("type", "enum", "pattern", "minimum", "maximum", "maxLength", "default")


def _one_each(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A repeated field with one value a garment."""
    return {"type": "array", "items": items, "maxItems": MAX_GARMENTS, **more}


def _options(*, as_json: bool) -> Fields:
    """The options that stand in a form as plain text, or as the text of their JSON value."""
    declared = Options.model_json_schema()["properties"]
    shown: Fields = {}
    for name, option in Options.model_fields.items():
        said = next(mark for mark in option.metadata if isinstance(mark, InForm))
        if said.as_json == as_json:
            shown[name] = {"type": "string"} if as_json else _bounds(declared[name])
            if said.description is not None:
                shown[name]["description"] = said.description
            if said.examples:
                shown[name]["examples"] = list(said.examples)
    return shown


def _bounds(declared: dict[str, Any]) -> dict[str, Any]:
    """Type and bounds of an option that may be left out, from its JSON Schema."""
    given = next((part for part in declared.get("anyOf", ()) if part["type"] != "null"), {}) | declared
    return {word: given[word] for word in _BOUNDS if given.get(word) not in (None, "")}


PICTURES: Fields = {"person": PICTURE, "garment": _one_each(PICTURE)}
LISTS: Fields = {
    "skus": _one_each({"type": "string", "pattern": SKU}, examples=[["SHIRT-42"]]),
    "categories": _one_each({"type": "string", "enum": list(CATEGORIES)}),
    "layers": _one_each({"type": "string", "maxLength": MAX_LAYER}),
}
PLAIN = _options(as_json=False)
JSON_VALUED = _options(as_json=True)
INTEGERS = tuple(name for name, option in PLAIN.items() if option["type"] == "integer")
WHOLE: Fields = {
    "request": {
        "type": "string",
        "description": (
            "Every option, as in application/json, in one JSON object, with "
            '`"garments": [{"file": "<part name>" or "sku": ..., "category": ..., "layer": ...}]`; '
            "then no other text field."
        ),
    }
}

TRY_ON_FORM: dict[str, Any] = {
    "description": (
        f"Pictures are numbered as in the instruction: person is image 1, garments are images 2 to {1 + MAX_GARMENTS}. "
        "`categories` and `layers` are aligned with the garments, uploads first, then skus. "
        "`request` is the same as one JSON value and replaces every other text field; with it, file parts may have "
        "any name."
    ),
    "type": "object",
    "required": ["person"],
    "additionalProperties": False,
    "properties": {**PICTURES, **LISTS, **PLAIN, **JSON_VALUED, **WHOLE},
}

GARMENT_FIELDS: Fields = {
    "image": PICTURE,
    "category": {"type": "string", "enum": list(CATEGORIES), "examples": ["coats"]},
    "layer": {"type": "string", "maxLength": MAX_LAYER, "examples": ["open"]},
}
