"""Every kind of bad input over HTTP: its exact status and problem type, and what the message says to do."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from functools import cache
from typing import Any

import httpx
import pytest
from gateway_live import Live, data_url, picture
from PIL import Image

from service.gateway.app import create_app
from service.settings import load_settings

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")


def part(name: str, data: bytes, filename: str = "a.jpg") -> tuple[str, tuple[str, bytes, str]]:
    return (name, (filename, data, "image/jpeg"))


def bare_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00" * 64)) + chunk(b"IEND", b"")
    )


def animated(format: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(out, format, save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


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


PICTURES = [
    ("empty file", b"", 422, "empty-image", "empty"),
    (
        "text named .jpg",
        b"hello, I am not a picture\n" * 9,
        415,
        "unsupported-image-format",
        "Send JPEG, PNG",
    ),
    ("truncated JPEG", picture(400, 400)[:700], 422, "damaged-image", "upload the whole file"),
    ("0x0", bare_png(0, 0), 422, "zero-size-image", "0 by 0 pixels"),
    ("30,000x30,000", bare_png(30_000, 30_000), 413, "too-many-pixels", "smaller copy"),
    ("animated WebP", animated("WEBP"), 422, "animated-image", "one still frame"),
    ("animated PNG", animated("PNG"), 422, "animated-image", "one still frame"),
    ("GIF", animated("GIF"), 415, "unsupported-image-format", "GIF"),
    ("too small", picture(8, 8), 422, "image-too-small", "at least"),
    ("too large", PERSON + b"\x00" * (15 * 2**20), 413, "image-too-large", "smaller"),
]


@pytest.mark.parametrize("where", ["person", "garment"])
@pytest.mark.parametrize(("name", "data", "status", "code", "word"), PICTURES, ids=[p[0] for p in PICTURES])
def test_unusable_pictures(
    http: httpx.Client, where: str, name: str, data: bytes, status: int, code: str, word: str
) -> None:
    given = {"person": PERSON, "garment": SHIRT} | {where: data}
    answer = http.post("/v1/try-ons", files=[part(n, d) for n, d in given.items()])
    body = check(answer, status, code, word)
    assert body["pointer"].startswith(where) and body["detail"].startswith(f"{body['pointer']}: ")
    assert body["retryable"] is False


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(picture(format="PNG"), id="PNG"),
        pytest.param(picture(format="WEBP"), id="WebP"),
        pytest.param(picture(format="AVIF"), id="AVIF"),
    ],
)
def test_usable_formats(http: httpx.Client, data: bytes) -> None:
    answer = http.post("/v1/try-ons", files=[part("person", data), part("garment", SHIRT)])
    assert answer.status_code == 202, answer.text


def test_heic_cmyk_16_bit_and_rotated_pictures_are_used(http: httpx.Client) -> None:
    import pillow_heif

    heic, cmyk, deep, rotated = (io.BytesIO() for _ in range(4))
    pillow_heif.from_pillow(Image.new("RGB", (96, 128), "teal")).save(heic)
    Image.new("CMYK", (96, 128), (0, 90, 10, 0)).save(cmyk, "JPEG")
    Image.new("I;16", (96, 128), 30_000).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100), "teal").save(rotated, "JPEG", exif=exif)
    for data in (heic, cmyk, deep):
        answer = http.post("/v1/try-ons", files=[part("person", data.getvalue()), part("garment", SHIRT)])
        assert answer.status_code == 202, answer.text
    put = http.put("/v1/garments/rotated", files={"image": ("r.jpg", rotated.getvalue())})
    assert (put.json()["width"], put.json()["height"]) == (100, 200)


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
    ("extra", json.dumps(GOOD | {"nope": 1}).encode(), 400, "unknown-field", "'nope' here; see /openapi.json"),
    ("sku", json.dumps(GOOD | {"garments": [{"sku": "a/b"}]}).encode(), 422, "invalid-field", "letters, digits"),
    ("type", json.dumps(GOOD | {"seed": "one"}).encode(), 422, "invalid-field", "seed"),
    ("surrogate", json.dumps(GOOD | {"prompt": "\ud800"}).encode(), 422, "invalid-field", "prompt"),
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
            b"POST /v1/try-ons HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
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
