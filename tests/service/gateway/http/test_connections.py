"""The cap on connections: silent ones make room, and those at work are never cut for a newcomer."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from gateway_live import Live, closed_after, picture

from service.gateway.http import seats

CAP = 6
FILES = [("person", ("p.jpg", picture(), "image/jpeg")), ("garment", ("g.jpg", picture(), "image/jpeg"))]


@pytest.fixture(scope="module")
def capped(launch: Callable[..., Live]) -> Live:
    return launch(max_connections=CAP, header_timeout_s=60, body_idle_timeout_s=60)


@pytest.fixture
def sockets(capped: Live) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", capped.port()), timeout=30))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()
    patience = time.monotonic() + 20
    while capped.connections() and time.monotonic() < patience:
        time.sleep(0.05)


def test_silent_connections_make_room_the_longest_silent_first(
    capped: Live, sockets: Callable[[], socket.socket]
) -> None:
    held = [sockets() for _ in range(CAP)]
    for number in range(3 * CAP):
        with capped.client() as client:
            assert client.get("/livez").status_code == 200, number
    assert closed_after(held[0])[1] == b""
    newest = sockets()
    newest.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert closed_after(newest)[1].startswith(b"HTTP/1.1 200")


def test_when_all_are_at_work_a_newcomer_is_told_so_and_the_others_go_on(
    capped: Live, sockets: Callable[[], socket.socket]
) -> None:
    head = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    busy = [sockets() for _ in range(CAP)]
    for one in busy:
        one.sendall(head + b"{")
    patience = time.monotonic() + 20
    while capped.running() < CAP and time.monotonic() < patience:
        time.sleep(0.02)
    newcomer = sockets()
    newcomer.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 100_000)
    answer = closed_after(newcomer)[1]
    assert answer.startswith(b"HTTP/1.1 503") and b"urn:changeroom:problem:too-many-connections" in answer
    assert b"\r\nretry-after: 1\r\n" in answer
    for one in busy:
        one.sendall(b"}" + b" " * 8)
        assert one.recv(65536).startswith(b"HTTP/1.1 400")
        one.close()
    while capped.connections() and time.monotonic() < patience:
        time.sleep(0.05)
    with capped.client() as client:
        assert 'admission_rejected_total{reason="too-many-connections"} 1.0' in client.get("/metrics").text
        answer = client.post("/v1/try-ons", files=FILES, headers={"Prefer": "wait=20"})
        assert answer.json()["status"] == "succeeded"


def test_the_cap_leaves_room_for_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert seats.room_for(10_000) == 1024 - seats.REFUSED_AT_ONCE - seats.FILES_KEPT
    assert asked == [(1024, 1024)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    assert seats.room_for(10_000) == 10_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65_536, 65_536))
    assert seats.room_for(2048) == 2048 and len(asked) == 2
