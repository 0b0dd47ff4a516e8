"""A reservation that cannot be given back during an outage is given back right after it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from queue_hand import Hand

from service.errors import StoreUnavailable
from service.jobs import submission
from service.jobs.embedded import EmbeddedServer
from service.jobs.queue import JobQueue
from service.jobs.submission import UnusedReservations
from service.settings import load_settings


async def test_the_key_is_free_soon_after_the_outage(own_server: EmbeddedServer, tmp_path: Path) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=own_server.url, data_dir=tmp_path))
    stopping = asyncio.Event()
    returning = UnusedReservations(queue.submission, stopping)
    reservation = await Hand(queue).reserve(key="k")
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        await asyncio.wait_for(returning.release(reservation), 60)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    async with asyncio.timeout(20):
        while (await queue.upkeep.backlog()).in_flight:  # noqa: ASYNC110 (the reservation lives in the store)
            await asyncio.sleep(0.05)
    await queue.close()


async def test_an_unanswered_reservation_takes_no_room(
    own_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store makes the reservation after its client has given up waiting."""
    monkeypatch.setattr(submission, "RETRY_S", 4.0)
    queue = await JobQueue.connect(load_settings(redis_url=own_server.url, data_dir=tmp_path))
    stopping = asyncio.Event()
    UnusedReservations(queue.submission, stopping)
    await Hand(queue).reserve(key="before")
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await Hand(queue).reserve(key="k")
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    async with asyncio.timeout(30):
        while (await queue.upkeep.backlog()).in_flight != 2:  # noqa: ASYNC110 (it lives in the store)
            await asyncio.sleep(0.01)
        while (await queue.upkeep.backlog()).in_flight != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stopping.set()
    await queue.close()


async def test_a_stop_ends_the_patience(own_server: EmbeddedServer, tmp_path: Path) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=own_server.url, data_dir=tmp_path))
    stopping = asyncio.Event()
    returning = UnusedReservations(queue.submission, stopping)
    reservation = await Hand(queue).reserve(key="k")
    own_server.kill()
    await returning.release(reservation)
    async with asyncio.timeout(60):
        while not (waiting := [task for task in asyncio.all_tasks() if "_patiently" in repr(task)]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stopping.set()
    await asyncio.wait_for(waiting[0], 20)
    await queue.close()
