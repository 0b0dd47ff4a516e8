"""Hostile requests: endless headers, thousands of parts, bodies that lie about themselves, two requests in one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from besieged import ANSWER_S, MIB, STALL_S, Besieged, closed, refused
from hostile_pictures import encoded, plain

PERSON = encoded(plain(), "JPEG")
SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
FORM = "multipart/form-data; boundary=b"
BOTH = [("person", ("p.jpg", PERSON, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]


def part(name: str, data: bytes, more: bytes = b"", filename: str | None = "x") -> bytes:
    said = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--b\r\nContent-Disposition: " + said.encode() + b"\r\n" + more + b"\r\n" + data + b"\r\n"


FORMS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "1,000 files": (part("garment", b"x") * 1000 + b"--b--\r\n", ("too-many-parts",)),
    "1,000 fields": (part("seed", b"1", filename=None) * 1000 + b"--b--\r\n", ("too-many-parts",)),
    "100,000 empty parts": (b"--b\r\n\r\n\r\n" * 100_000 + b"--b--\r\n", ("invalid-request", "too-many-parts")),
    "a part header of 8 MB": (
        part("person", b"x", b"X-Long: " + b"y" * (8 * MIB) + b"\r\n") + b"--b--\r\n",
        ("invalid-request",),
    ),
    "100,000 headers of one part": (
        part("person", b"x", b"X-A: b\r\n" * 100_000) + b"--b--\r\n",
        ("invalid-request",),
    ),
    "never ends": (part("person", PERSON), ("invalid-request", "damaged-image", "missing-person", "missing-garment")),
    "no boundary inside": (b"x" * MIB, ("invalid-request",)),
    "a field of 1 MB": (part("prompt", b"x" * MIB, filename=None) + b"--b--\r\n", ("field-too-large",)),
    "fields of 256 kB": (part("prompt", b"x" * 262_144, filename=None) * 60 + b"--b--\r\n", ("field-too-large",)),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", ("invalid-request",)),
    "a character set of its own": (
        part("prompt", b"x", b"Content-Type: text/plain; charset=rot13\r\n", filename=None) + b"--b--\r\n",
        ("invalid-request", "missing-person"),
    ),
}


def test_hostile_forms_are_refused(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for body, codes in FORMS.values():
            started = time.monotonic()
            answer = client.post("/v1/try-ons", content=body, headers={"Content-Type": FORM})
            refused(answer, started, *codes)


def test_a_boundary_of_any_length_is_a_boundary_or_refused(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for boundary in ("", "b" * 10_000, 'b"; boundary=c', "b\x7f", "🙂".encode().decode("latin-1")):
            started = time.monotonic()
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}".encode("latin-1")}
            answer = client.post("/v1/try-ons", content=part("person", b"x"), headers=headers)
            refused(answer, started, "invalid-request", "invalid-http", "missing-garment", "missing-person")


JSONS: dict[str, bytes] = {
    "deep": b'{"person":' * 100_000,
    "wide": b"[" + b"1," * 5_000_000 + b"1]",
    "one long number": b'{"seed": ' + b"9" * 1_000_000 + b"}",
    "one long exponent": b'{"seed": 1e999999999}',
    "many of one key": b"{" + b'"seed":1,' * 1_000_000 + b'"seed":1}',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-16": '{"seed": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("path", ["/v1/try-ons", "/v1/run"])
def test_hostile_json_is_refused(besieged: Besieged, path: str) -> None:
    with besieged.client() as client, besieged.siege():
        for body in JSONS.values():
            started = time.monotonic()
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            codes = ("invalid-json", "invalid-field", "invalid-text", "missing-person", "missing-garment")
            refused(answer, started, *codes, "unknown-field")


def test_hostile_json_inside_a_field_is_refused(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for text in ("[" * 100_000, '{"seed": ' + "9" * 200_000 + "}", '{"a": 1}' * 1000, "{" + '"a":"b",' * 20_000):
            for field in ("request", "metadata"):
                started = time.monotonic()
                answer = client.post("/v1/try-ons", files=BOTH, data={field: text})
                refused(answer, started, "invalid-json", "invalid-field", "unknown-field")


def test_chunks_without_a_length_are_read_and_bounded(besieged: Besieged) -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(20_000):
            yield b"x"

    def flood() -> Iterator[bytes]:
        for _ in range(100):
            yield b"y" * MIB

    with besieged.client() as client, besieged.siege():
        started = time.monotonic()
        answer = client.post("/v1/try-ons", content=drops(), headers={"Content-Type": FORM})
        refused(answer, started, "invalid-request")
        started = time.monotonic()
        answer = client.post("/v1/try-ons", content=flood(), headers={"Content-Type": "application/json"})
        refused(answer, started, "body-too-large")


HEADERS: list[tuple[str, list[tuple[bytes, bytes]], str]] = [
    ("two keys", [(b"Idempotency-Key", b"one"), (b"Idempotency-Key", b"two")], "Idempotency-Key"),
    ("the same key twice", [(b"Idempotency-Key", b"one"), (b"idempotency-key", b"one")], "Idempotency-Key"),
    ("a key of 10 kB", [(b"Idempotency-Key", b"k" * 10_240)], "Idempotency-Key"),
    ("a key of 256", [(b"Idempotency-Key", b"k" * 256)], "Idempotency-Key"),
    ("a key that is not ASCII", [(b"Idempotency-Key", "clé".encode())], "Idempotency-Key"),
    ("two deadlines", [(b"Cancel-After", b"5s"), (b"Cancel-After", b"900s")], "Cancel-After"),
]


def test_a_header_says_one_thing(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for name, headers, pointer in HEADERS:
            for path, body in (
                ("/v1/try-ons", {"files": BOTH}),
                ("/v1/images/edits", {"files": [("image[]", BOTH[0][1]), ("image[]", BOTH[1][1])]}),
                ("/v1/run", {"json": {}}),
            ):
                started = time.monotonic()
                answer = client.post(path, headers=headers, **body)  # type: ignore[arg-type]
                assert refused(answer, started, "invalid-header")["pointer"] == pointer, name


def test_one_key_posted_by_many_at_once_is_one_job(besieged: Besieged) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with besieged.client() as client, besieged.siege(), ThreadPoolExecutor(16) as pool:
        key = {"Idempotency-Key": f"siege-{time.time()}"}
        answers = list(pool.map(lambda _: besieged.dress(client, headers=key), range(32)))
        assert {answer.status_code for answer in answers} <= {200, 202}
        assert len({answer.json()["id"] for answer in answers}) == 1


START = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def inner(head: bytes, body: bytes) -> bytes:
    return POST + head + b"\r\n" + body


# Each could be read as one request by a proxy and as another by us; the answer is one 400 and the end.
SMUGGLED: dict[str, bytes] = {
    "CL and TE": inner(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + INNER),
    "TE and CL": inner(b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", b"0\r\n\r\n" + INNER),
    "two CL": inner(b"Content-Length: 0\r\nContent-Length: 36\r\n", INNER),
    "CL list": inner(b"Content-Length: 0, 36\r\n", INNER),
    "CL with a sign": inner(b"Content-Length: +0\r\n", INNER),
    "CL in hex": inner(b"Content-Length: 0x0\r\n", INNER),
    "CL negative": inner(b"Content-Length: -1\r\n", INNER),
    "CL beyond 64 bits": inner(b"Content-Length: 18446744073709551617\r\n", INNER),
    "TE twice": inner(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n" + INNER),
    "TE not last": inner(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + INNER),
    "TE unknown": inner(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + INNER),
    "TE behind a tab": inner(b"Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n" + INNER),
    "space before the colon": inner(b"Content-Length : 36\r\n", INNER),
    "folded header": inner(b"Content-Length:\r\n 36\r\n", INNER),
    "bare CR": inner(b"X-A: b\rContent-Length: 36\r\n", INNER),
    "NUL in a header": inner(b"X-A: b\0c\r\n", INNER),
    "a header without a name": inner(b": b\r\n", INNER),
    "a header without a colon": inner(b"Content-Length 36\r\n", INNER),
    "chunk size with a sign": inner(b"Transfer-Encoding: chunked\r\n", b"+0\r\n\r\n" + INNER),
    "chunk size beyond 64 bits": inner(b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\n" + INNER),
    "chunk size in words": inner(b"Transfer-Encoding: chunked\r\n", b"zero\r\n\r\n" + INNER),
    "chunk longer than said": inner(b"Transfer-Encoding: chunked\r\n", b"1\r\nabc\r\n0\r\n\r\n" + INNER),
    "HTTP/3.0": b"GET /livez HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "HTTP/2 in the open": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method of its own": b"BREW /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
}


def test_two_requests_in_one_are_none(besieged: Besieged) -> None:
    with besieged.siege():
        for name, sent in SMUGGLED.items():
            with besieged.connect() as raw:
                raw.sendall(sent)
                seconds, said = closed(raw)
            assert seconds < ANSWER_S + STALL_S, name
            assert said.count(b"HTTP/1.1 ") == 1 and said.startswith(b"HTTP/1.1 400 "), f"{name}: {said[:400]!r}"
            assert b"smuggled" not in said and b"urn:changeroom:problem:invalid-" in said, name


INJECTED = [
    ("X-Request-Id", "a%0d%0aSet-Cookie: stolen=1"),
    ("X-Request-Id", "a\u010d\u010aSet-Cookie: stolen=1"),
    ("X-Request-Id", "x" * 5000),
    ("Prefer", "wait=1%0d%0aSet-Cookie: stolen=1"),
    ("Last-Event-ID", "1-0%0aevent: succeeded"),
    ("traceparent", "00-%0a"),
    ("Host", "evil.example"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "javascript"),
]


def test_nothing_of_a_header_comes_back_as_one(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for name, value in INJECTED:
            for path in ("/livez", "/v1/try-ons/none", "/v1/garments/a%0d%0aSet-Cookie:%20stolen=1", "/%0d%0aX: y"):
                answer = client.get(path, headers={name: value.encode()})
                assert "set-cookie" not in answer.headers and "evil" not in str(answer.headers)
                assert "stolen" not in str(answer.headers)
    lines = [json.loads(line) for line in besieged.log("gateway").splitlines()]
    assert all(set(line) >= {"time", "level", "message"} for line in lines)


def test_endless_headers_are_431(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB):
        for line in (b"X-A: " + b"b" * 1000 + b"\r\n", b"X-Endless: "):
            with besieged.connect() as raw:
                said = b""
                try:
                    raw.sendall(START + line)
                    for _ in range(4096):
                        raw.sendall(line if line.endswith(b"\n") else b"b" * 16_384)
                except OSError:
                    said += b""
                seconds, rest = closed(raw)
                said += rest
                assert seconds < ANSWER_S + STALL_S
                assert said == b"" or said.startswith(b"HTTP/1.1 431")
        with besieged.connect() as raw:
            raw.sendall(START + b"X-A: " + b"b" * 70_000)
            _, said = closed(raw)
            assert said.startswith(b"HTTP/1.1 431") and b"urn:changeroom:problem:headers-too-large" in said


def test_a_thousand_requests_in_one_breath_are_answered_one_by_one(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB), besieged.connect() as raw:
        raw.sendall((START + b"\r\n") * 999 + START + b"Connection: close\r\n\r\n")
        _, said = closed(raw)
        assert said.count(b"HTTP/1.1 200") == 1000
