"""Slow and silent clients are closed in time, and honest slow ones are not."""

from __future__ import annotations

import io
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from gateway_live import Live, closed_after, picture
from PIL import Image

from service.gateway.http.arrivals import FAIR_BYTES_PER_S

TIMEOUT_S = 1.0
SLOW_S = 3.0
PATIENCE_S = 60.0
"""Of a client that would go on for ever; a busy machine closes late, but it closes."""


@pytest.fixture(scope="module")
def strict(launch: Callable[..., Live]) -> Live:
    return launch(header_timeout_s=TIMEOUT_S, body_idle_timeout_s=TIMEOUT_S, body_pause_s=TIMEOUT_S)


def until_closed(live: Live, left: int) -> None:
    """Wait until the service has no more than `left` connections."""
    patience = time.monotonic() + PATIENCE_S
    while live.connections() > left:
        assert time.monotonic() < patience
        time.sleep(0.05)


@contextmanager
def connected(live: Live) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", live.port()), timeout=PATIENCE_S) as raw:
        yield raw


def test_a_silent_connection_is_closed(strict: Live) -> None:
    with connected(strict) as raw:
        seconds, said = closed_after(raw)
    assert seconds >= TIMEOUT_S / 2 and said == b""


def test_trickled_headers_are_closed_with_408(strict: Live) -> None:
    with connected(strict) as raw:
        started = time.monotonic()
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        raw.settimeout(0.1)
        said = b""
        while time.monotonic() - started < PATIENCE_S:
            try:
                raw.sendall(b"X-A: b\r\n")
                said += raw.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not said:
                break
    assert said.startswith(b"HTTP/1.1 408") and b"urn:changeroom:problem:request-timeout" in said


def test_what_is_not_http_is_told_so(strict: Live) -> None:
    with connected(strict) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        _, said = closed_after(raw)
    assert said.startswith(b"HTTP/1.1 400") and b"urn:changeroom:problem:invalid-http" in said


def test_empty_lines_do_not_keep_a_connection(strict: Live) -> None:
    with connected(strict) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
        raw.settimeout(0.1)
        started, closed = time.monotonic(), False
        while time.monotonic() - started < PATIENCE_S and not closed:
            try:
                raw.sendall(b"\r\n")
                closed = raw.recv(65536) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed


HEAD = (
    b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 100000\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="person"; filename="p"\r\n\r\n'


def test_a_silent_body_is_closed_with_408(strict: Live) -> None:
    with connected(strict) as raw:
        raw.sendall(HEAD + b"--b\r\n")
        _, said = closed_after(raw)
    assert said.startswith(b"HTTP/1.1 408")
    assert strict.call(strict.queue.upkeep.backlog()).in_flight == 0


def test_a_trickled_body_is_closed_with_408(strict: Live) -> None:
    with connected(strict) as raw:
        raw.sendall(HEAD + PART)
        raw.settimeout(0.1)
        started, said = time.monotonic(), b""
        while time.monotonic() - started < PATIENCE_S and not said:
            try:
                raw.sendall(b"x")
                said = raw.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
    assert said.startswith(b"HTTP/1.1 408")


def test_a_body_nobody_reads_is_not_awaited_for_ever(strict: Live) -> None:
    with connected(strict) as raw:
        raw.sendall(HEAD.replace(b"/v1/try-ons", b"/v1/nothing-"))
        assert raw.recv(65536).startswith(b"HTTP/1.1 404")
        closed_after(raw)


def test_a_reader_that_stops_reading_is_closed(strict: Live) -> None:
    noise = io.BytesIO()
    Image.effect_noise((1024, 1024), 90).convert("RGB").save(noise, "JPEG", quality=95)
    with strict.client() as client:
        answer = client.post(
            "/v1/try-ons",
            files=[("person", ("p.jpg", noise.getvalue())), ("garment", ("g.jpg", picture()))],
            data={"size": "1024x1024", "output_format": "png"},
            headers={"Prefer": "wait=20"},
        ).json()
        size = len(client.get(answer["result"]["url"]).content)
    until_closed(strict, 0)
    before = strict.connections()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE_S)
        raw.connect(("127.0.0.1", strict.port()))
        raw.sendall(f"GET {answer['result']['url']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 20)
        until_closed(strict, before)
        _, said = closed_after(raw)
    assert size > 500_000 and len(said) < 20 * size


def test_an_honest_slow_upload_and_a_long_wait_survive(launch: Callable[..., Live]) -> None:
    """Longer than the bounds of silence as a whole, and never as silent, not even on a machine that stalls."""
    honest = launch(header_timeout_s=SLOW_S, body_idle_timeout_s=SLOW_S)
    body = httpx.Request(
        "POST",
        "http://x/v1/try-ons",
        files=[("person", ("p.jpg", picture(1800, 2400))), ("garment", ("g.jpg", picture()))],
    )
    data = body.read()
    step = math.ceil(len(data) * 0.3 / (1.5 * SLOW_S))
    assert step / 0.3 > FAIR_BYTES_PER_S

    def slowly() -> Iterator[bytes]:
        for start in range(0, len(data), step):
            yield data[start : start + step]
            time.sleep(0.3)

    began = time.monotonic()
    with honest.client() as client:
        answer = client.post(
            "/v1/try-ons",
            content=slowly(),
            headers={"Content-Type": body.headers["content-type"], "Content-Length": str(len(data))},
        )
        assert answer.status_code == 202, answer.text
        assert time.monotonic() - began > SLOW_S
        honest.hold()
        waiting = client.post(
            "/v1/try-ons",
            content=data,
            headers={"Content-Type": body.headers["content-type"], "Prefer": f"wait={SLOW_S + 1:.0f}"},
        )
        honest.resume()
        assert waiting.status_code == 202
        time.sleep(SLOW_S + 0.5)
        assert client.get("/livez").status_code == 200
