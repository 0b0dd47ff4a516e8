"""Clients that are slow on purpose, many of them, against the default bounds: the service ends it, not the client.

What a single slow client meets, byte by byte, is in tests/service/gateway/http/test_slow_clients.py.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from besieged import ANSWER_S, MIB, STALL_S, Besieged

SLOW = 8
SILENT = 400
HEAD = (
    b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 100000\r\n\r\n"
)
CHUNKED = (
    b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)

TRICKLES: dict[str, tuple[bytes, Callable[[], bytes], bytes]] = {
    "nothing at all": (b"", lambda: b"", b""),
    "empty lines": (b"\r\n", lambda: b"\r\n", b""),
    "half a request line": (b"GET /liv", lambda: b"", b"HTTP/1.1 408"),
    "headers, one byte at a time": (b"GET /livez HTTP/1.1\r\nX-A: ", lambda: b"b", b"HTTP/1.1 408"),
    "headers, one at a time": (b"GET /livez HTTP/1.1\r\n", lambda: b"X-A: b\r\n", b"HTTP/1.1 408"),
    "a body that never comes": (HEAD, lambda: b"", b"HTTP/1.1 408"),
    "a body, one byte at a time": (HEAD + b"--b\r\n", lambda: b"x", b"HTTP/1.1 408"),
    "chunks of one byte": (CHUNKED, lambda: b"1\r\n[\r\n", b"HTTP/1.1 408"),
    "a chunk that never ends": (CHUNKED + b"FFFF\r\n", lambda: b"[", b"HTTP/1.1 408"),
    "a chunk extension that never ends": (CHUNKED + b"1;a=", lambda: b"b", b"HTTP/1.1 408"),
}


@contextmanager
def crowd(besieged: Besieged, count: int) -> Iterator[list[socket.socket]]:
    sockets = [besieged.connect() for _ in range(count)]
    try:
        yield sockets
    finally:
        for raw in sockets:
            raw.close()


def outlast(sockets: dict[socket.socket, Callable[[], bytes]]) -> dict[socket.socket, bytes]:
    """Send a drip on each twice a second until the service has closed all; what each was told."""
    started, said = time.monotonic(), {raw: b"" for raw in sockets}
    with selectors.DefaultSelector() as selector:
        for raw in sockets:
            raw.setblocking(False)
            selector.register(raw, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() - started < 2 * ANSWER_S + STALL_S:
            for key, _ in selector.select(0.5):
                raw = key.fileobj
                assert isinstance(raw, socket.socket)
                try:
                    chunk = raw.recv(65536)
                except ConnectionResetError:
                    chunk = b""
                said[raw] += chunk
                if not chunk:
                    selector.unregister(raw)
            for key in list(selector.get_map().values()):
                try:
                    key.fileobj.send(sockets[key.fileobj]())  # type: ignore[index, union-attr]
                except OSError:
                    continue
        assert not selector.get_map(), f"{len(selector.get_map())} are still open"
    return said


def test_trickles_are_ended_by_the_service(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB), crowd(besieged, SLOW * len(TRICKLES)) as sockets:
        kinds = dict(zip(sockets, list(TRICKLES) * SLOW, strict=True))
        for raw, name in kinds.items():
            raw.sendall(TRICKLES[name][0])
        said = outlast({raw: TRICKLES[name][1] for raw, name in kinds.items()})
    for raw, name in kinds.items():
        answer = TRICKLES[name][2]
        assert said[raw].startswith(answer) and (answer or not said[raw]), f"{name}: {said[raw]!r}"


def test_hundreds_of_silent_connections_are_nobodys_trouble(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB), crowd(besieged, SILENT) as sockets:
        with besieged.client() as client:
            answer = besieged.dress(client, headers={"Prefer": "wait=30"})
            assert answer.json()["status"] == "succeeded"
        said = outlast(dict.fromkeys(sockets, lambda: b""))
    assert not any(said.values())


def test_followers_that_never_read_hold_little(besieged: Besieged) -> None:
    """Hundreds of event streams and waits, left open by clients that read nothing."""
    with besieged.client() as client, besieged.siege():
        made = besieged.dress(client).json()
        path = made["links"]["events"].encode()
        sockets = [besieged.connect(receive_buffer=4096) for _ in range(100)]
        for raw in sockets:
            raw.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        done = client.get(made["links"]["self"], headers={"Prefer": "wait=30"})
        assert done.json()["status"] == "succeeded"
        for raw in sockets:
            raw.close()


def test_clients_that_leave_in_the_middle_leave_nothing_behind(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB), besieged.client() as client:
        for number in range(60):
            with besieged.connect() as raw:
                raw.sendall(HEAD + b"--b\r\n" + b"x" * (500 * number))
        patience = time.monotonic() + 60
        while "changeroom_requests_running 0.0" not in client.get("/metrics").text and time.monotonic() < patience:
            time.sleep(0.1)
        assert "changeroom_requests_waiting 0.0" in client.get("/metrics").text
