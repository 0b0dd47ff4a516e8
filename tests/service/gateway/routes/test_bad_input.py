"""Every kind of bad form, JSON, header and body over HTTP: its exact status and type, and what its message says."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from gateway_live import Live, data_url
from refused_answers import PERSON, SHIRT, check, part

FORMS: list[tuple[str, list[Any], dict[str, Any], int, str, str]] = [
    ("no person", [part("garment", SHIRT)], {}, 422, "missing-person", "part named person"),
    ("no garment", [part("person", PERSON)], {}, 422, "missing-garment", "1 to 6 garment photos"),
    (
        "seven garments",
        [part("person", PERSON), *[part("garment", SHIRT)] * 7],
        {},
        422,
        "too-many-garments",
        "At most 6",
    ),
    (
        "twenty files",
        [part("person", PERSON), *[part("garment", SHIRT)] * 19],
        {},
        413,
        "too-many-parts",
        "At most 7",
    ),
    (
        "two persons",
        [part("person", PERSON)] * 2 + [part("garment", SHIRT)],
        {},
        422,
        "invalid-field",
        "exactly one",
    ),
    ("unknown part", [part("persona", PERSON), part("garment", SHIRT)], {}, 400, "unknown-field", "persona"),
]
FIELDS = [
    ("unknown field", {"colour": "red"}, 400, "unknown-field", "the fields are person, garment, categories"),
    ("picture as text", {"person": "@me.jpg"}, 400, "invalid-field", "-F person=@photo.jpg"),
    ("unknown sku", {"skus": "NO-SUCH"}, 422, "unknown-sku", "PUT /v1/garments/NO-SUCH"),
    ("odd sku", {"skus": "../etc"}, 422, "invalid-field", "not a sku"),
    ("category", {"categories": "socks"}, 422, "invalid-field", "choose one of tops"),
    ("categories too many", {"categories": "tops,pants"}, 422, "invalid-field", "2 given for 1"),
    ("size", {"size": "big"}, 422, "invalid-field", "such as 768x1024"),
    ("size example", {"size": "100x100"}, 422, "unsupported-size", "such as 192x256"),
    ("size multiple", {"size": "100x100"}, 422, "unsupported-size", "multiples of 16"),
    ("size huge", {"size": "99984x99984"}, 422, "unsupported-size", "at most"),
    ("seed", {"seed": "-1"}, 422, "invalid-field", "seed"),
    ("seed text", {"seed": "lucky"}, 422, "invalid-field", "whole number"),
    ("steps", {"steps": "21"}, 422, "unsupported-steps", "at most 20"),
    ("format", {"output_format": "gif"}, 422, "invalid-field", "jpeg"),
    ("quality", {"quality": "101"}, 422, "invalid-field", "quality"),
    ("prompt", {"prompt": "x" * 2001}, 422, "invalid-field", "2000"),
    ("nul", {"prompt": "a\x00b"}, 422, "invalid-field", "NUL"),
    ("metadata", {"metadata": "{"}, 422, "invalid-json", "metadata"),
    ("metadata list", {"metadata": "[]"}, 422, "invalid-field", "metadata"),
    ("webhook", {"webhook_url": "https://example.com/x"}, 422, "webhooks-disabled", "webhooks are off"),
    ("twice", {"seed": ["1", "2"]}, 400, "invalid-field", "2 times"),
    ("request json", {"request": "nonsense"}, 422, "invalid-json", "request"),
    ("request file", {"request": '{"garments": [{"file": "x"}]}'}, 422, "missing-garment", "'x'"),
    ("request more", {"request": '{"garments": [{"sku": "A"}]}'}, 400, "invalid-field", "more garment files"),
    ("request and more", {"request": "{}", "seed": "1"}, 422, "conflicting-fields", "every other"),
    ("huge field", {"prompt": "x" * 300_000}, 413, "field-too-large", "256 kB"),
]


@pytest.mark.parametrize(("name", "files", "data", "status", "code", "word"), FORMS, ids=[f[0] for f in FORMS])
def test_forms_of_a_wrong_shape(
    http: httpx.Client, name: str, files: list[Any], data: dict[str, Any], status: int, code: str, word: str
) -> None:
    check(http.post("/v1/try-ons", files=files, data=data), status, code, word)


@pytest.mark.parametrize(("name", "data", "status", "code", "word"), FIELDS, ids=[f[0] for f in FIELDS])
def test_fields_of_a_wrong_value(
    http: httpx.Client, name: str, data: dict[str, Any], status: int, code: str, word: str
) -> None:
    files = [part("person", PERSON), part("garment", SHIRT)]
    check(http.post("/v1/try-ons", files=files, data=data), status, code, word)


GOOD = {"person": data_url(PERSON), "garments": [data_url(SHIRT)]}
JSONS = [
    ("not json", b"{", 400, "invalid-json", "not valid JSON"),
    ("nan", b'{"seed": NaN}', 400, "invalid-json", "NaN"),
    ("deep", b"[" * 100_000, 400, "invalid-json", "JSON"),
    ("array", b"[]", 400, "invalid-field", "one JSON object"),
    ("null", b"null", 400, "invalid-field", "one JSON object"),
    ("no person", json.dumps({"garments": [data_url(SHIRT)]}).encode(), 422, "missing-person", "person"),
    ("no garments", json.dumps({"person": data_url(PERSON)}).encode(), 422, "missing-garment", "1 to 6"),
    ("empty garments", json.dumps(GOOD | {"garments": []}).encode(), 422, "missing-garment", "1 to 6"),
    ("seven", json.dumps(GOOD | {"garments": [data_url(SHIRT)] * 7}).encode(), 422, "too-many-garments", "6"),
    (
        "url",
        json.dumps(GOOD | {"person": "http://169.254.169.254/x"}).encode(),
        422,
        "image-url-refused",
        "data:",
    ),
    (
        "base64",
        json.dumps(GOOD | {"person": "data:image/png;base64,@@"}).encode(),
        422,
        "invalid-base64",
        "base64",
    ),
    (
        "both",
        json.dumps(GOOD | {"garments": [{"image": "aa", "sku": "A"}]}).encode(),
        422,
        "invalid-field",
        "either",
    ),
    ("extra", json.dumps(GOOD | {"nope": 1}).encode(), 400, "unknown-field", "'nope' here; the fields are prompt"),
    (
        "person_image",
        json.dumps({"person_image": "aa", "garments": []}).encode(),
        400,
        "unknown-field",
        "'person_image'",
    ),
    ("nested", json.dumps(GOOD | {"garments": [{"img": "aa"}]}).encode(), 400, "unknown-field", "'garments.0.img'"),
    ("unknown null", json.dumps(GOOD | {"nope": None}).encode(), 400, "unknown-field", "'nope'"),
    ("null person", json.dumps(GOOD | {"person": None}).encode(), 422, "missing-person", "data: URL or base64"),
    ("null garments", json.dumps(GOOD | {"garments": None}).encode(), 422, "missing-garment", "1 to 6"),
    ("null garment", json.dumps(GOOD | {"garments": [None]}).encode(), 422, "invalid-field", "garments.0"),
    ("sku", json.dumps(GOOD | {"garments": [{"sku": "a/b"}]}).encode(), 422, "invalid-field", "letters, digits"),
    ("type", json.dumps(GOOD | {"seed": "one"}).encode(), 422, "invalid-field", "seed"),
    ("surrogate", json.dumps(GOOD | {"prompt": "\ud800"}).encode(), 422, "invalid-text", "prompt"),
]


@pytest.mark.parametrize(("name", "body", "status", "code", "word"), JSONS, ids=[j[0] for j in JSONS])
def test_json_of_a_wrong_shape(http: httpx.Client, name: str, body: bytes, status: int, code: str, word: str) -> None:
    answer = http.post("/v1/try-ons", content=body, headers={"Content-Type": "application/json"})
    check(answer, status, code, word)


HEADERS = [
    ("key with spaces", {"Idempotency-Key": "a b"}, "Idempotency-Key"),
    ("key too long", {"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
    ("empty key", {"Idempotency-Key": '""'}, "Idempotency-Key"),
    ("deadline text", {"Cancel-After": "soon"}, "Cancel-After"),
    ("deadline zero", {"Cancel-After": "0s"}, "Cancel-After"),
    ("deadline long", {"Cancel-After": "9999h"}, "Cancel-After"),
]


@pytest.mark.parametrize(("name", "headers", "word"), HEADERS, ids=[h[0] for h in HEADERS])
def test_malformed_headers(http: httpx.Client, name: str, headers: dict[str, str], word: str) -> None:
    files = [part("person", PERSON), part("garment", SHIRT)]
    check(http.post("/v1/try-ons", files=files, headers=headers), 400, "invalid-header", word)


def test_other_bodies_are_415(http: httpx.Client) -> None:
    answer = http.post("/v1/try-ons", content=b"<x/>", headers={"Content-Type": "text/xml"})
    check(answer, 415, "unsupported-content-type", "multipart/form-data")
    check(http.put("/v1/garments/A", content=b"x"), 415, "unsupported-content-type", "image/*")


def test_broken_multipart_is_400(http: httpx.Client) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = http.post("/v1/try-ons", content=b"--y\r\nnonsense", headers={"Content-Type": kind})
        check(answer, 400, "invalid-request", "multipart")


def test_unknown_things_are_404_and_wrong_methods_405(http: httpx.Client) -> None:
    check(http.get("/v1/try-ons/none"), 404, "unknown-try-on", "no try-on")
    check(http.get("/v1/garments/none"), 404, "unknown-sku", "PUT")
    check(http.get("/v1/nothing"), 404, "not-found", "path")
    wrong = http.put("/v1/try-ons")
    check(wrong, 405, "method-not-allowed", "Allow")
    assert wrong.headers["allow"] == "POST"
    assert http.post("/v1/try-ons/none").headers["allow"] == "DELETE, GET, HEAD"
    check(
        http.get("/v1/try-ons/none/events", headers={"Last-Event-ID": "x"}),
        400,
        "invalid-header",
        "Last-Event-ID",
    )


def test_a_body_over_the_limit_is_refused_before_it_is_read(live: Live) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", live.port()), timeout=5) as raw:
        raw.sendall(
            b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 314572800\r\n\r\n{"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_413(launch: Any) -> None:
    small = launch(body_limit_bytes=200_000)

    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 10_000

    with small.client() as client:
        answer = client.post("/v1/try-ons", content=chunks(), headers={"Content-Type": "application/json"})
        check(answer, 413, "body-too-large", "at most")
        assert client.get("/livez").status_code == 200
