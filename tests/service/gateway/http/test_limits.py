"""The budget of uploads: what counts, and who makes room."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest
from gateway_live import Live, closed_after, parts

from service.errors import QueueFull, ServiceError
from service.gateway.http import bodies, limits
from service.gateway.http.arrivals import Arrival
from service.gateway.http.limits import IN_MEMORY_BYTES, Upload, UploadBudget
from service.settings import Settings

MIB = 1 << 20


def test_the_readers_keep_to_what_is_counted_in_memory() -> None:
    files = Settings().max_images + 8
    assert files * bodies.PART_SPOOL_BYTES + bodies.MAX_TEXT_BYTES <= IN_MEMORY_BYTES
    assert bodies.BODY_SPOOL_BYTES <= IN_MEMORY_BYTES


def test_a_body_is_in_memory_at_its_beginning_and_when_it_is_whole() -> None:
    budget = UploadBudget(80 * MIB)
    upload = Upload(budget)
    for _ in range(60):
        upload.add(MIB)
    assert budget.held == {"memory": IN_MEMORY_BYTES, "disk": 60 * MIB - IN_MEMORY_BYTES}
    upload.whole()
    assert budget.held == {"memory": 60 * MIB, "disk": 0}
    upload.release()
    upload.release()
    assert budget.held == {"memory": 0, "disk": 0} and not budget.uploads


async def test_bodies_that_trickle_make_room_the_farthest_behind_first() -> None:
    budget, ended = UploadBudget(MIB), []
    now = asyncio.get_running_loop().time()

    def arrival(name: str, behind: float) -> Arrival:
        def end(error: ServiceError) -> None:
            ended.append((name, error.code))

        return Arrival(now - behind, end)

    slow, slower, quick = (Upload(budget, arrival(*said)) for said in (("slow", 60), ("slower", 90), ("quick", 0.0)))
    for upload in (slow, slower):
        upload.add(2 * MIB)
    quick.add(6 * MIB)
    first, second, third = (Upload(budget, arrival(name, 0.0)) for name in ("first", "second", "third"))
    first.add(2 * MIB)
    assert not ended, "there was room"
    second.add(2 * MIB)
    assert ended == [("slower", "uploads-full")] and slower.held["memory"] == 0
    third.add(2 * MIB)
    assert ended == [("slower", "uploads-full"), ("slow", "uploads-full")]
    with pytest.raises(QueueFull) as caught:
        Upload(budget).add(1)
    assert caught.value.code == "uploads-full"
    assert budget.held == {"memory": 8 * MIB, "disk": 4 * MIB}


async def test_a_body_that_is_whole_makes_no_room() -> None:
    budget, ended = UploadBudget(MIB), []
    arrival = Arrival(asyncio.get_running_loop().time() - 60, ended.append)
    done = Upload(budget, arrival)
    for _ in range(4):
        done.add(2 * MIB)
        done.whole()
    arrival.whole = True
    with pytest.raises(QueueFull):
        Upload(budget).add(1)
    assert not ended


HELD = 60_000
HEAD = (
    b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b'Content-Length: 65000\r\n\r\n--b\r\nContent-Disposition: form-data; name="person"; filename="p"\r\n\r\n'
)


def test_connections_that_hold_all_of_it_and_send_no_more_lose_it(
    launch: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PATIENCE_S", 0.5)
    small = launch(body_limit_bytes=65_536, body_idle_timeout_s=90, body_pause_s=90)
    with ExitStack() as stack, small.client() as client:
        holders = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", small.port()), timeout=60)))
            for _ in range(8)
        ]
        for raw in holders:
            raw.sendall(HEAD + b"x" * HELD)
        patience = time.monotonic() + 30
        while small.running() < len(holders) and time.monotonic() < patience:
            time.sleep(0.05)
        time.sleep(1.5)
        answer = client.post("/v1/try-ons", files=[*parts(), ("garment", ("g.jpg", b"\xff" * 50_000, "image/jpeg"))])
        assert answer.status_code == 415, answer.text
        assert closed_after(holders[0])[1].startswith(b"HTTP/1.1 503 ")
        assert "uploads-full" in client.get("/metrics").text


def test_a_disk_that_is_full_is_said_to_be_temporary(
    launch: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = launch()

    async def full(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies.UploadFile, "write", full)
    with service.client() as client:
        for answer in (client.post("/v1/try-ons", files=parts()), client.post("/v1/run", json={})):
            assert answer.status_code == 503 and answer.json()["code"] == "uploads-full"
            assert answer.headers["retry-after"]
