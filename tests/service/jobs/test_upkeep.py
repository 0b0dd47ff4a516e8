"""Upkeep: with no worker and no traffic at all, deadlines fire, inputs go, and an outage is waited out."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from queue_hand import Hand

from service.jobs import store_keys
from service.jobs.blobs import BlobStore
from service.jobs.embedded import EmbeddedServer, start_server
from service.jobs.queue import JobQueue
from service.jobs.store import Store, open_client
from service.jobs.upkeep import Upkeep, keep_house
from service.jobs.words import Words
from service.settings import load_settings


async def test_jobs_and_pictures_end_without_any_worker(own_server: EmbeddedServer, tmp_path: Path) -> None:
    settings = load_settings(redis_url=own_server.url, data_dir=tmp_path, sweep_s=0.1, input_ttl_s=1)
    queue, blobs = await JobQueue.connect(settings), BlobStore.open(settings)
    hand = Hand(queue)
    key = await blobs.put(b"picture", kind="input", content_type="image/png")
    stored = tmp_path / "blobs" / key
    assert stored.is_file()
    blobs._clock = lambda: time.time() + 2
    own_server.kill()
    upkeep = asyncio.create_task(keep_house(queue.upkeep, blobs, Words(blobs)))
    await asyncio.sleep(0.4)
    again = start_server(tmp_path / "own")
    try:
        job_id = await hand.post(deadline_s=0.2)
        async with asyncio.timeout(60):
            while await hand.status(job_id) != "expired" or stored.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not upkeep.done()
    finally:
        upkeep.cancel()
        with suppress(asyncio.CancelledError):
            await upkeep
        await queue.close()
        again.kill()


async def test_a_vanished_worker_s_job_reaches_an_idle_one_without_traffic(
    queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The idle one does not look by himself in the time of this test: a sweep wakes him."""
    job_id = await hand.post()
    await hand.claim_one("vanished")
    monkeypatch.setattr("service.jobs.claims.MAX_BLOCK_S", 120.0)
    idle = asyncio.create_task(hand.claim("idle", block_s=120))
    blobs = BlobStore.open(queue.settings)
    upkeep = asyncio.create_task(keep_house(queue.upkeep, blobs, Words(blobs)))
    (claim,) = await asyncio.wait_for(idle, 60)
    upkeep.cancel()
    await asyncio.wait({upkeep})
    assert (claim.spec.id, claim.attempt) == (job_id, 2)


CALLS = 1000


async def test_every_waiting_loop_together_idles_on_next_to_nothing(queue: JobQueue, hand: Hand) -> None:
    """A worker waiting for work and cancellations, a gateway keeping house and one follower of a job: 8 s of it cost
    less than 1000 calls to the store do on the same processor."""
    job_id = await hand.post()
    await hand.claim_one()
    blobs = BlobStore.open(queue.settings)

    async def follow() -> None:
        async for _ in queue.owner.subscribe(job_id):
            pass

    async def hear() -> None:
        async for _ in queue.workers.news().follow():
            pass

    async def wait_for_work() -> None:
        while True:
            await queue.claims.claim("idle", max_jobs=4, token_budget=1000, block_s=30)

    await queue.store.client.zadd(store_keys.LEASES, {job_id: 2**45})
    upkeep = keep_house(queue.upkeep, blobs, Words(blobs))
    tasks = [asyncio.create_task(work) for work in (follow(), hear(), wait_for_work(), upkeep)]
    await asyncio.sleep(1)
    before = time.process_time()
    await asyncio.sleep(8)
    used = time.process_time() - before
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.wait(tasks)
    before = time.process_time()
    for _ in range(CALLS):
        await queue.ping()
    assert used < time.process_time() - before


async def test_the_store_s_log_is_rewritten_in_its_time_by_one_process_of_many(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    log = tmp_path / "own" / "valkey" / "appendonlydir"

    def logged(word: bytes) -> bool:
        return any(word in part.read_bytes() for part in log.iterdir())

    settings = load_settings(redis_url=own_server.url, data_dir=tmp_path, log_rewrite_s=2, store_timeout_s=30)
    queue, other = await JobQueue.connect(settings), await JobQueue.connect(settings)
    client = queue.store.client
    await client.set("key", "written and deleted")
    await client.delete("key")
    assert logged(b"written and deleted")
    assert [await queue.upkeep.rewrite_log(), await other.upkeep.rewrite_log()] == [True, False]
    async with asyncio.timeout(60):
        while logged(b"written and deleted"):  # noqa: ASYNC110 (the file is the store's)
            await asyncio.sleep(0.05)
        while not await other.upkeep.rewrite_log():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await queue.close()
    await other.close()


async def test_a_log_that_is_left_to_the_store_is_not_rewritten(store_url: str, tmp_path: Path) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=store_url, data_dir=tmp_path, log_rewrite_s=0))
    assert not await queue.upkeep.rewrite_log()
    await queue.close()


def test_what_is_kept_shortly_is_erased_soon(tmp_path: Path) -> None:
    def every(**ttl: int) -> float:
        settings = load_settings(data_dir=tmp_path, **ttl)
        return Upkeep(Store(open_client("unix:///nowhere", 1), 1), settings).erase_every_s

    assert (every(), every(input_ttl_s=5), every(result_ttl_s=3)) == (60, 5, 3)
