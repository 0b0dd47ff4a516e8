"""The list of errors in the OpenAPI document is the list of errors there are, and every part of it has an example."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_live import Live

import service
from service.gateway.http.dialects import status_of
from service.gateway.shapes.error_samples import SAMPLES, responses

ROOT = Path(service.__file__).parent
RAISED_IN = ("gateway", "pictures", "jobs/submission.py", "egress.py")
# Before any operation: not HTTP at all, or a build without the page.
NO_OPERATION = {"invalid-http", "no-studio"}
# Answers of the synchronous OpenAI shape, which tells what is wrong with a request as 400.
VENDORS_ONLY = {"unsupported-parameter", "out-of-memory", "unprocessable-request", "canceled"}


def raised() -> Iterator[str]:
    """Every `code` that is written out in the gateway's own code."""
    for name in RAISED_IN:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.name in ("error_samples.py", "views.py"):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    for word in node.keywords:
                        if word.arg == "code" and isinstance(word.value, ast.Constant):
                            yield str(word.value.value)


def test_every_error_that_is_raised_has_a_sample() -> None:
    codes = set(raised())
    assert len(codes) > 40
    assert codes - {sample.code for sample in SAMPLES} == NO_OPERATION


def test_every_sample_belongs_to_an_operation(live: Live) -> None:
    shown = {
        (code, int(status))
        for operation in operations(live)
        for status, answer in operation["responses"].items()
        if status >= "400"
        for code in answer["content"]["application/problem+json"]["examples"]
    }
    native = {(sample.code, sample.status) for sample in SAMPLES}
    told = {(s.code, status_of(s, dialect)) for s in SAMPLES for dialect in ("native", "openai", "fashn")}
    assert {code for code, _ in native} == {code for code, _ in shown}
    assert shown <= told and native - shown == {(code, 422) for code in VENDORS_ONLY}


def operations(live: Live) -> list[dict[str, Any]]:
    paths = httpx.get(live.url + "/openapi.json").json()["paths"]
    return [operation for path in paths.values() for operation in path.values()]


def test_examples_say_what_their_response_says(live: Live) -> None:
    for operation in operations(live):
        for status, answer in operation["responses"].items():
            if status >= "400":
                examples = answer["content"]["application/problem+json"]["examples"]
                assert examples, (operation["operationId"], status)
                for code, example in examples.items():
                    assert (example["value"]["code"], example["value"]["status"]) == (code, int(status))
            assert {"X-Request-Id", "Server-Timing"} <= set(answer["headers"])


def test_parameters_bodies_and_answers_have_examples(live: Live) -> None:
    document = httpx.get(live.url + "/openapi.json").json()

    def shown(holder: dict[str, Any]) -> bool:
        schema = holder.get("schema", holder)
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if schema.get("format") == "binary" or "enum" in schema:
            return True
        properties = [part for part in schema.get("properties", {}).values() if "examples" in part]
        return bool(properties) or any("example" in name for part in (holder, schema) for name in part)

    for path in document["paths"].values():
        for operation in path.values():
            name = operation["operationId"]
            assert operation["summary"] and operation["description"], name
            for parameter in operation.get("parameters", []):
                assert shown(parameter), (name, parameter["name"])
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                assert shown(body), (name, kind)
            for status, answer in operation["responses"].items():
                for kind, body in answer.get("content", {}).items():
                    assert shown(body), (name, status, kind)


def test_a_code_without_a_sample_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="no-such-code"):
        responses("no-such-code")
    assert "unknown-sku" in responses("unknown-sku@404")[404]["content"]["application/problem+json"]["examples"]
    assert "unknown-sku" not in responses("unknown-sku@404")[422]["content"]["application/problem+json"]["examples"]


def test_the_reference_page_tells_every_operation_field_and_error(live: Live) -> None:
    page = httpx.get(live.url + "/docs")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    for operation in operations(live):
        assert f'id="{operation["operationId"]}"' in page.text
        for status, answer in operation["responses"].items():
            if status >= "400":
                for code in answer["content"]["application/problem+json"]["examples"]:
                    assert f"<code>{code}</code>" in page.text
    for field in ("garments[].sku", "inputs.model_image", "categories", "webhook_url (query)", "Prefer (header)"):
        assert f"<code>{field}</code>" in page.text, field
