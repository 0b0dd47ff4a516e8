"""What every test of bad input needs: good parts to spoil, and the check of a refusal against the OpenAPI document."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
from gateway_live import picture

from service.gateway.app import create_app
from service.settings import load_settings

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")


def part(name: str, data: bytes, filename: str = "a.jpg") -> tuple[str, tuple[str, bytes, str]]:
    return (name, (filename, data, "image/jpeg"))


def check(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, Any]:
    """The whole shape of a problem, and that its sentence holds `words`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:changeroom:problem:{code}"
    assert body["status"] == status and body["code"] == code
    assert body["title"] and body["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in body["detail"], body["detail"]
    assert_documented(answer.request, status, code)
    return body


@cache
def operations() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    """(method, path, responses) of the OpenAPI document."""
    paths = create_app(load_settings(blob_url="memory://", url_secret="unused")).openapi()["paths"]
    return [
        (method.upper(), re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), operation["responses"])
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def assert_documented(request: httpx.Request, status: int, code: str) -> None:
    """The document shows this error at this operation; a path or method that is none has no operation."""
    for method, path, responses in operations():
        if request.method == method and path.fullmatch(request.url.path):
            assert code in responses[str(status)]["content"]["application/problem+json"]["examples"]
            return
    assert code in ("not-found", "method-not-allowed")
