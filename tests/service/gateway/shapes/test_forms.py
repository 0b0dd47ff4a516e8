"""What a form may hold and what the OpenAPI document says it may hold are one declaration."""

from __future__ import annotations

import re

from engine_build.instruction import MAX_GARMENTS
from service.gateway.app import create_app
from service.gateway.shapes import forms
from service.gateway.shapes.request import JsonTryOn, Options
from service.settings import Settings


def test_every_option_stands_in_the_form_and_in_json() -> None:
    in_form = {**forms.PLAIN, **forms.JSON_VALUED}
    assert set(in_form) == set(Options.model_fields) == set(JsonTryOn.model_fields) - {"person", "garments"}
    declared = JsonTryOn.model_json_schema()["properties"]
    for name, shown in forms.PLAIN.items():
        bounds = declared[name] | next((part for part in declared[name].get("anyOf", ()) if len(part) > 1), {})
        for word in ("type", "enum", "pattern", "minimum", "maximum", "maxLength"):
            assert shown.get(word) == bounds.get(word), (name, word)
    assert forms.INTEGERS == ("seed", "steps", "quality")


def test_the_document_says_the_limit_of_garments_that_holds() -> None:
    document = create_app(Settings()).openapi()
    said = re.findall(r"[Oo]ne person and 1 to (\d+) garments|then 1 to (\d+) garments", str(document))
    assert len(said) >= 4
    assert {number for pair in said for number in pair if number} == {str(MAX_GARMENTS)}
    body = document["paths"]["/v1/try-ons"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {body["properties"][name]["maxItems"] for name in ("garment", "skus", "categories", "layers")} == {
        MAX_GARMENTS
    }
    assert document["components"]["schemas"]["JsonTryOn"]["properties"]["garments"]["maxItems"] == MAX_GARMENTS
