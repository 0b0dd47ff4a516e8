"""A store that dies, freezes, forgets or is full: errors in time, no loss, no doubles, recovery unaided."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from queue_hand import RESULT, UNLIMITED, Hand, make_spec

from service.errors import StoreUnavailable
from service.jobs import store_keys
from service.jobs.embedded import EmbeddedServer, start_server
from service.jobs.queue import JobQueue
from service.jobs.schemas import Existing, JobError
from service.settings import load_settings

STORE_TIMEOUT_S = 2.0
IN_TIME_S = 60.0
"""A time-out against hanging: what gives up gives up after its own bound, `store_timeout_s` or a wait for work."""


@pytest.fixture
async def queue(own_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[JobQueue]:
    queue = await JobQueue.connect(
        load_settings(redis_url=own_server.url, data_dir=tmp_path, store_timeout_s=STORE_TIMEOUT_S)
    )
    yield queue
    await queue.close()


async def refused_in_time(queue: JobQueue, hand: Hand) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await asyncio.wait_for(hand.reserve(), IN_TIME_S)
    assert caught.value.retryable
    assert "valkey" not in caught.value.detail


async def test_everything_survives_a_killed_store(
    queue: JobQueue, hand: Hand, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    waiting = [await hand.post() for _ in range(20)]
    running = await hand.claim_one()
    done = await hand.claim_one()
    await queue.claims.finish(done, status="succeeded", result=RESULT)
    own_server.kill()
    await refused_in_time(queue, hand)
    again = start_server(tmp_path / "own")
    try:
        assert await hand.status(done.spec.id) == "succeeded"
        assert await queue.claims.finish(running, status="succeeded", result=RESULT)
        for job_id in waiting[2:]:
            claim = await hand.claim_one()
            assert claim.spec.id == job_id
            assert await queue.claims.finish(claim, status="succeeded", result=RESULT)
        assert (await queue.upkeep.totals())["requests|succeeded|"] == 20
    finally:
        again.kill()


async def test_a_blocked_claim_notices_a_killed_store_and_works_after_its_return(
    queue: JobQueue, hand: Hand, own_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.claims.MAX_BLOCK_S", 120.0)
    blocked = asyncio.create_task(hand.claim(block_s=120))
    await asyncio.sleep(0.2)
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(blocked, IN_TIME_S)
    again = start_server(tmp_path / "own")
    try:
        blocked = asyncio.create_task(hand.claim(block_s=120))
        await asyncio.sleep(0.1)
        job_id = await hand.post()
        assert [claim.spec.id for claim in await asyncio.wait_for(blocked, IN_TIME_S)] == [job_id]
    finally:
        again.kill()


async def test_a_frozen_store_is_refused_in_time(queue: JobQueue, hand: Hand, own_server: EmbeddedServer) -> None:
    await hand.post()
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        await refused_in_time(queue, hand)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(hand.claim(block_s=120), IN_TIME_S)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await asyncio.sleep(0.1)
    await hand.reserve()


async def test_two_hundred_callers_of_a_frozen_store_give_up_together(
    queue: JobQueue, own_server: EmbeddedServer
) -> None:
    await queue.ping()
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        asked = asyncio.gather(*(queue.owner.get("x") for _ in range(200)), return_exceptions=True)
        answers = await asyncio.wait_for(asked, IN_TIME_S)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert await queue.owner.get("x") is None


async def test_reservations_outlive_a_long_silence_of_everyone(queue: JobQueue, hand: Hand) -> None:
    """What a dead gateway reserved is given back by the next sweep, however late that comes."""
    reservation = await hand.reserve(key="k")
    client = queue.store.client
    assert await client.ttl(store_keys.JOB + reservation.id) == -1
    await client.zadd(store_keys.RESERVATIONS, {reservation.id: 1})
    await queue.upkeep.sweep()
    assert (await queue.upkeep.backlog()).in_flight == 0
    left = {key async for key in client.scan_iter()}
    assert left == set()


async def test_a_record_deleted_by_hand_does_not_stop_the_sweep(queue: JobQueue, hand: Hand) -> None:
    deleted, other = await hand.post(), await hand.post()
    await hand.claim(max_jobs=2)
    await queue.store.client.delete(store_keys.JOB + deleted)
    for job_id in (deleted, other):
        await hand.lose_lease(job_id)
    assert (await queue.upkeep.sweep()).requeued == (other,)
    await queue.store.client.zadd(store_keys.DEADLINES, {"ghost": 1})
    await queue.upkeep.sweep()
    assert await queue.store.client.zscore(store_keys.DEADLINES, "ghost") is None
    assert (await queue.upkeep.backlog()).in_flight == 1


async def test_a_store_that_freezes_under_a_blocked_claim_is_noticed(
    queue: JobQueue, hand: Hand, own_server: EmbeddedServer
) -> None:
    blocked = asyncio.create_task(hand.claim(block_s=1))
    await asyncio.sleep(0.2)
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(blocked, IN_TIME_S)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


async def test_a_write_that_stalled_is_written_once(queue: JobQueue, hand: Hand, own_server: EmbeddedServer) -> None:
    """The answer is lost but the write arrives later; the client's retry finds that one job."""
    reservation = await hand.reserve(key="k")
    spec = make_spec(reservation)
    await queue.ping()
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await queue.submission.submit(reservation, spec)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await asyncio.sleep(0.1)
    await queue.submission.submit(reservation, spec)
    again = await queue.submission.reserve(tenant="shop", idempotency_key="k", body_digest="body", limits=UNLIMITED)
    assert again == Existing(job_id=reservation.id)
    assert await queue.store.client.xlen(store_keys.STREAM + "normal") == 1
    assert len(await hand.claim(max_jobs=8)) == 1


async def test_an_emptied_store_works_again_at_once(queue: JobQueue, hand: Hand) -> None:
    await hand.post()
    running = await hand.claim_one()
    await queue.store.client.flushall()
    assert await queue.claims.heartbeat([running]) == {running.spec.id: "lost"}
    assert not await queue.claims.finish(running, status="succeeded", result=RESULT)
    job_id = await hand.post()
    claim = await hand.claim_one()
    assert claim.spec.id == job_id
    assert await queue.claims.finish(claim, status="succeeded", result=RESULT)


@pytest.mark.parametrize("loss", ["stream", "group"])
async def test_a_lost_stream_or_group_loses_no_job(queue: JobQueue, hand: Hand, loss: str) -> None:
    posted = [await hand.post() for _ in range(3)]
    running = await hand.claim_one()
    stream, client = store_keys.STREAM + "normal", queue.store.client
    if loss == "stream":
        await client.delete(stream)
    else:
        await client.xgroup_destroy(stream, store_keys.GROUP)
    claimed = [await hand.claim_one() for _ in range(2)]
    assert [claim.spec.id for claim in (running, *claimed)] == posted
    for claim in (running, *claimed):
        assert await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert await client.xlen(stream) == 0


async def test_a_full_store_takes_nothing_new_and_lets_everything_end(queue: JobQueue, hand: Hand) -> None:
    running, waiting, canceled, erased, late = [await hand.post() for _ in range(5)]
    claim = await hand.claim_one()
    reservation = await hand.reserve(key="k")
    client = queue.store.client
    await client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="full"):
        await hand.reserve()
    with pytest.raises(StoreUnavailable, match="full"):
        await queue.submission.submit(reservation, make_spec(reservation))
    await queue.submission.release(reservation)
    assert (await queue.claims.heartbeat([claim]))[running] == "ok"
    assert await queue.claims.progress(claim, stage="denoise", step=1, steps=4, preview=b"preview")
    assert await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert [event.type async for event in queue.owner.subscribe(running)][-1] == "succeeded"
    assert (await queue.owner.cancel(canceled)).status == "canceled"
    assert await queue.owner.erase(erased) is not None
    await queue.workers.withdraw("w1")
    claims = {one.spec.id: one for one in [await hand.claim_one() for _ in range(2)]}
    assert set(claims) == {waiting, late}
    assert await queue.claims.fail_attempt(claims[waiting], JobError(code="x", message="x")) == "requeued"
    assert await queue.claims.hand_back(claims[late])
    await client.config_set("maxmemory", "0")
    job_id = await hand.post()
    assert await hand.status(job_id) == "queued"


async def test_following_ends_with_the_store_and_resumes_after(
    queue: JobQueue, hand: Hand, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    seen = []

    async def follow(last_id: str | None) -> None:
        async for event in queue.owner.subscribe(job_id, last_id):
            seen.append(event)

    following = asyncio.create_task(follow(None))
    await asyncio.sleep(0.3)
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(following, IN_TIME_S)
    again = start_server(tmp_path / "own")
    try:
        following = asyncio.create_task(follow(seen[-1].id))
        await asyncio.sleep(0.2)
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
        await asyncio.wait_for(following, IN_TIME_S)
        assert [event.type for event in seen] == ["queued", "processing", "succeeded"]
    finally:
        again.kill()


async def test_an_unreachable_address_is_refused_in_time(tmp_path: Path) -> None:
    for url in ("redis://127.0.0.1:1/0", f"unix://{tmp_path}/nothing.sock", "redis://192.0.2.1:6379/0"):
        queue = await JobQueue.connect(load_settings(redis_url=url, data_dir=tmp_path))
        await refused_in_time(queue, Hand(queue))
        await queue.close()


async def test_a_canceled_call_ends_its_task(queue: JobQueue) -> None:
    """A cancellation that comes while a call is sent or answered is never swallowed: a drain waits for such tasks."""

    async def ask_forever() -> None:
        while True:
            await queue.ping()

    for number in range(200):
        task = asyncio.create_task(ask_forever())
        await asyncio.sleep(number * 0.00002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 20)
