"""Requests with random damage, and what any answer to any request must be."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress

from besieged import Besieged, closed
from hostile_pictures import encoded, plain, small

PATIENCE_S = 90.0
PERSON, SHIRT = encoded(plain(), "JPEG"), small("PNG")
SURROGATES = (b"\\ud800", b"\\udfff\\ud800", b"\xed\xa0\x80", b"%ED%A0%80")
OFFERS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
)
HOSTS = (
    b"Host: localhost\r\nHost: localhost\r\n",
    b"Host: evil.example\r\n",
    b"Host: [::1]:8000\r\n",
    b"Host: localhost:99999\r\n",
    b"Host: localhost@evil.example\r\n",
    b"Host:\r\n",
    b"Host: localhost\r\nOrigin: http://evil.example\r\n",
    b"",
)
TRAILERS = (b"a:b\r\n", b"Content-Length: 3\r\n", b"Host: evil.example\r\n", b"Authorization: Bearer cr_x\r\n")
WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff\xfe",
    b"--b",
    b"--b--\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    b"Host: evil.example\r\n",
    b"Origin: null\r\n",
    b";a=b",
    b"0\r\na:b\r\n",
    b"Range: bytes=0-0,1-1\r\n",
    b"99999999999999999999",
    b"-1",
    b"1e309",
    b"NaN",
    b'{"a":' * 50,
    b"%00",
    b"%2e%2e%2f",
    b"../",
    *SURROGATES,
    "🙂".encode(),
    b"A" * 5000,
)


def form(*parts: tuple[str, bytes, bool]) -> bytes:
    """A multipart body with the boundary `b`; the flag says whether a part is a file."""
    body = b""
    for name, data, is_file in parts:
        said = f'Content-Disposition: form-data; name="{name}"' + ('; filename="x.jpg"' if is_file else "")
        body += b"--b\r\n" + said.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--b--\r\n"


SHAPES = ("line", "headers", "body", "body", "all", "trailers", "upgrade", "host", "surrogate")
FORM, JSON = b"multipart/form-data; boundary=b", b"application/json"
BASES: tuple[tuple[bytes, bytes, bytes], ...] = (
    (
        b"POST /v1/try-ons",
        FORM,
        form(("person", PERSON, True), ("garment", SHIRT, True), ("seed", b"7", False), ("size", b"192x256", False)),
    ),
    (
        b"POST /v1/try-ons",
        FORM,
        form(("person", PERSON, True), ("garment", SHIRT, True), ("request", b'{"seed": 1, "prompt": "x"}', False)),
    ),
    (b"POST /v1/try-ons", JSON, b'{"person": "aGk=", "garments": [{"image": "aGk=", "category": "tops"}], "seed": 3}'),
    (b"POST /v1/images/edits", FORM, form(("image[]", PERSON, True), ("image[]", SHIRT, True))),
    (b"POST /v1/run", JSON, b'{"model_name":"tryon-v1.6","inputs":{"model_image":"aGk=","garment_image":"aGk="}}'),
    (b"PUT /v1/garments/FUZZ-1", FORM, form(("image", SHIRT, True), ("category", b"tops", False))),
    (b"PUT /v1/garments/FUZZ-1?category=tops&layer=open", b"image/png", SHIRT),
    (b"GET /v1/try-ons/0123456789abcdef0123456789abcdef", b"", b""),
    (b"GET /v1/try-ons/0123456789abcdef0123456789abcdef/image?token=1.abc", b"", b""),
    (b"GET /v1/try-ons/0123456789abcdef0123456789abcdef/events", b"", b""),
    (b"DELETE /v1/garments/FUZZ-1", b"", b""),
    (b"GET /studio/app.js", b"", b""),
    (b"GET /v1/models", b"", b""),
)
HEADERS = (
    b"Idempotency-Key: fuzz\r\n",
    b"Prefer: wait=1\r\n",
    b"Cancel-After: 5s\r\n",
    b"Last-Event-ID: 1-0\r\n",
    b"If-None-Match: *\r\n",
    b"Authorization: Bearer cr_x\r\n",
)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """`data` with a few random changes."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(5):
            case 0:
                out[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del out[at : at + draw.randrange(1, 40)]
            case 2:
                out[at:at] = draw.choice(WORDS)
            case 3:
                out[at:at] = out[at : at + draw.randrange(1, 200)] * draw.randrange(1, 4)
            case _:
                out[at : at + 8] = draw.choice(WORDS)
    return bytes(out)


HOST = b"Host: localhost\r\n"


def whole(
    line: bytes, kind: bytes, body: bytes, chosen: bytes = b"", length: int | None = None, host: bytes = HOST
) -> bytes:
    """A request of one of BASES; `chosen` are more headers, `length` what it says of its body."""
    head = line + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n" + chosen
    if kind:
        told = len(body) if length is None else length
        head += b"Content-Type: " + kind + b"\r\nContent-Length: " + str(told).encode() + b"\r\n"
    return head + b"\r\n" + body


def chunked(draw: random.Random, line: bytes, kind: bytes, body: bytes) -> bytes:
    """A request in chunks, with extensions and trailers."""
    head = line + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Type: " + kind + b"\r\n"
    out, at = head + b"Transfer-Encoding: chunked\r\n\r\n", 0
    while at < len(body):
        size = draw.randrange(1, len(body) + 1)
        extension = b";" + b"e" * draw.randrange(200) if draw.random() < 0.5 else b""
        out += b"%x" % len(body[at : at + size]) + extension + b"\r\n" + body[at : at + size] + b"\r\n"
        at += size
    many = draw.choice((0, 1, 3, 1000, 100_000))
    return out + b"0\r\n" + draw.choice(TRAILERS) * many + b"\r\n"


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Requests as bytes; mostly with a true length, so that the damage is met behind the parser as well."""
    draw = random.Random(seed)
    for number in range(count):
        line, kind, body = draw.choice(BASES)
        where = draw.choice(SHAPES)
        chosen = b"".join(draw.sample(HEADERS, draw.randrange(3)))
        if where == "body" and body:
            body = damaged(draw, body)
        if where == "line":
            line = damaged(draw, line)
        if where == "headers":
            chosen = damaged(draw, chosen + b"X-Request-Id: fuzz\r\n")
        if where == "surrogate":
            target = line if not body or draw.random() < 0.2 else body
            at = draw.randrange(len(target) + 1)
            spoilt = target[:at] + draw.choice(SURROGATES) + target[at:]
            line, body = (spoilt, body) if target is line else (line, spoilt)
        if where == "upgrade":
            chosen += draw.choice(OFFERS)
        length = len(body) if draw.random() < 0.95 else draw.randrange(2 * len(body) + 2)
        request = whole(line, kind, body, chosen, length, draw.choice(HOSTS) if where == "host" else HOST)
        if where == "trailers":
            request = chunked(draw, line, kind or JSON, body)
        if where == "all" or (where in ("trailers", "upgrade", "host") and draw.random() < 0.3):
            request = damaged(draw, request)
        yield f"request-{where}-seed{seed}-{number}", request


def asked(besieged: Besieged, request: bytes) -> bytes:
    """Everything the service says to a request until it closes. Raises TimeoutError when it never does: a synchronous
    call waits a minute for its picture.
    """
    with besieged.connect() as raw:
        raw.settimeout(PATIENCE_S)
        with suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(request)
        return closed(raw)[1]


def wrong_with(said: bytes) -> str | None:
    """What is wrong with an answer, or None. None at all is an answer: the connection was closed."""
    statuses = [int(found) for found in re.findall(rb"(?:^|\r\n|\})HTTP/1\.1 (\d{3}) ", said)]
    if said and not said.startswith(b"HTTP/1.1 "):
        return "not HTTP"
    for status in statuses:
        if status >= 500 and status != 503:
            return f"status {status}"
    head, _, body = said.partition(b"\r\n\r\n")
    if len(statuses) == 1 and statuses[0] >= 400 and b"application/problem+json" not in head:
        return f"status {statuses[0]} is not a problem document"
    if len(statuses) == 1 and statuses[0] >= 400 and body and b"HEAD" not in said:
        try:
            problem = json.loads(body)
        except ValueError:
            return "the problem is not JSON"
        if problem.get("status") != statuses[0] or not problem.get("code"):
            return "the problem has no code"
    return None
