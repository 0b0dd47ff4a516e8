"""Every byte of a request counts: what stands around a body is bounded like the head, and never becomes a header."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from besieged import ANSWER_S, MIB, STALL_S, Besieged, closed
from test_abuse_upgrades import form

START = b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = 40 * MIB


def repeated(line: bytes) -> Iterator[bytes]:
    """About LARGE bytes in packets of 64 kB."""
    many = line * (65_536 // len(line))
    for _ in range(LARGE // len(many)):
        yield many


def flood(raw: socket.socket, start: bytes, packets: Iterator[bytes]) -> bytes:
    """What the service says while it is sent more than it takes."""
    try:
        raw.sendall(start)
        for packet in packets:
            raw.sendall(packet)
    except OSError:
        pass
    seconds, said = closed(raw)
    assert seconds < ANSWER_S + STALL_S
    return said


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"a:b\r\n"),
    "trailers before authentication and a path": (CHUNKED.replace(b"/v1/try-ons", b"/nothing") + b"0\r\n", b"a:b\r\n"),
    "one trailer's value": (CHUNKED + b"0\r\na:", b"b"),
    "one trailer's name": (CHUNKED + b"0\r\n", b"a"),
    "a chunk extension": (CHUNKED + b"2;", b"a"),
    "a chunk extension's value": (CHUNKED + b"2;a=", b"b"),
    "extensions of chunks of a byte": (CHUNKED, b"1;a=" + b"b" * 1000 + b"\r\n[\r\n"),
    "a start line": (b"GET /", b"a"),
    "a query": (b"GET /livez?", b"a"),
    "a method": (b"", b"A"),
    "a header's name": (START, b"a"),
    "headers": (START, b"a:b\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_around_a_body_goes_on_for_ever(besieged: Besieged, name: str) -> None:
    start, line = ENDLESS[name]
    with besieged.siege(growth=16 * MIB), besieged.connect() as raw:
        said = flood(raw, start, repeated(line))
    # A reset may overtake the answer to who does not stop sending.
    assert said == b"" or said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), said[:300]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(CHUNKED + b"0\r\n" + b"a:b\r\n" * 20_000, id="trailers"),
        pytest.param(CHUNKED + b"1;" + b"a" * 100_000, id="a chunk extension"),
        pytest.param(START + b"a:b\r\n" * 129 + b"\r\n", id="129 headers"),
        pytest.param(START + b"".join(b"a:%s\r\n" % (b"b" * 5000) for _ in range(14)) + b"\r\n", id="70 kB of headers"),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="a start line of 70 kB"),
    ],
)
def test_who_sends_too_much_around_a_body_is_told(besieged: Besieged, sent: bytes) -> None:
    """Also when all of it came in one packet and is complete."""
    with besieged.siege(growth=16 * MIB), besieged.connect() as raw:
        raw.sendall(sent)
        _, said = closed(raw)
    assert said.startswith(b"HTTP/1.1 431 ") and b"urn:changeroom:problem:headers-too-large" in said, said[:300]


def test_trailers_say_nothing(besieged: Besieged) -> None:
    """A few are read over, whatever they say; extensions of chunks too."""
    kind, body = form()
    start = START + b"Content-Type: " + kind.encode() + b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"%x;name=value\r\n" % len(body) + body + b"\r\n0;last\r\n"
    trailers = b"Idempotency-Key: one two\r\nCancel-After: never\r\nX-Request-Id: trailer\r\n\r\n"
    with besieged.siege(), besieged.connect() as raw:
        raw.sendall(start + chunks + trailers)
        _, said = closed(raw)
    assert said.startswith(b"HTTP/1.1 202 ") and b"trailer" not in said.partition(b"\r\n\r\n")[0], said[:400]
