"""Leases, heartbeats and fencing: at least one run, exactly one visible result, whoever comes late."""

from __future__ import annotations

import asyncio
import time

import pytest
from queue_hand import RESULT, Hand

from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import JobError

FAILURE = JobError(code="engine-failed", message="The engine failed.", retryable=True)


async def test_a_lease_that_ran_out_is_requeued_at_the_head(queue: JobQueue, hand: Hand) -> None:
    first = await hand.post()
    second = await hand.post()
    await hand.claim_one("w1")
    await asyncio.sleep(1.1)
    assert (await queue.upkeep.sweep()).requeued == (first,)
    assert await hand.status(first) == "queued"
    again = await hand.claim_one("w2")
    assert (again.spec.id, again.attempt) == (first, 2)
    assert (await hand.claim_one("w2")).spec.id == second
    assert (await queue.upkeep.totals())["lease_lost"] == 1


async def test_a_job_longer_than_its_lease_runs_once_while_heartbeats_flow(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    for _ in range(8):
        await hand.lose_lease(job_id)
        assert await queue.claims.heartbeat([claim]) == {job_id: "ok"}
        assert await queue.store.client.zscore(store_keys.LEASES, job_id) > 1000 * time.time()
    assert await hand.claim("w2") == []
    assert await queue.claims.finish(claim, status="succeeded", result=RESULT)


async def test_a_zombie_cannot_touch_what_another_worker_owns(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    zombie = await hand.claim_one("zombie")
    await hand.lose_lease(job_id)
    await queue.upkeep.sweep()
    owner = await hand.claim_one("owner")
    assert owner.fence > zombie.fence
    late = RESULT.model_copy(update={"blob": "result/zombie"})
    assert await queue.claims.heartbeat([zombie]) == {job_id: "lost"}
    assert not await queue.claims.progress(zombie, stage="denoise", step=4, steps=4)
    assert not await queue.claims.finish(zombie, status="succeeded", result=late)
    assert not await queue.claims.hand_back(zombie)
    assert await queue.claims.fail_attempt(zombie, FAILURE) == "lost"
    assert await queue.claims.finish(owner, status="succeeded", result=RESULT)
    assert not await queue.claims.finish(zombie, status="failed", error=FAILURE)
    record = await queue.owner.get(job_id)
    assert record is not None and record.status == "succeeded" and record.result == RESULT
    terminal = [event.type async for event in queue.owner.subscribe(job_id)]
    assert terminal.count("succeeded") == 1 and terminal[-1] == "succeeded"


async def test_a_zombie_fenced_off_before_anyone_reclaims_it(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    zombie = await hand.claim_one()
    await hand.lose_lease(job_id)
    await queue.upkeep.sweep()
    assert not await queue.claims.finish(zombie, status="succeeded", result=RESULT)
    assert await hand.status(job_id) == "queued"


async def test_stealing_the_stream_entry_changes_nothing(queue: JobQueue, hand: Hand) -> None:
    """XCLAIM and XACK of a stale consumer succeed in the store; the job must not notice."""
    job_id = await hand.post()
    zombie = await hand.claim_one("zombie")
    await hand.lose_lease(job_id)
    await queue.upkeep.sweep()
    owner = await hand.claim_one("owner")
    stream, client = store_keys.STREAM + "normal", queue.store.client
    assert await client.xclaim(stream, store_keys.GROUP, "zombie", 0, [zombie.entry], justid=True)
    assert await client.xack(stream, store_keys.GROUP, zombie.entry) == 1
    assert await queue.claims.heartbeat([owner]) == {job_id: "ok"}
    assert await queue.claims.finish(owner, status="succeeded", result=RESULT)


async def test_a_deleted_consumer_loses_no_job(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await hand.claim_one("gone")
    assert await queue.store.client.xgroup_delconsumer(store_keys.STREAM + "normal", store_keys.GROUP, "gone") == 1
    await hand.lose_lease(job_id)
    assert (await queue.upkeep.sweep()).requeued == (job_id,)
    assert await queue.claims.finish(await hand.claim_one("next"), status="succeeded", result=RESULT)


async def test_the_pending_list_is_exactly_what_runs(queue: JobQueue, hand: Hand) -> None:
    for _ in range(4):
        await hand.post()
    running = [*await hand.claim("w1", max_jobs=2), await hand.claim_one("w2")]
    stream, client = store_keys.STREAM + "normal", queue.store.client
    pending = await client.xpending(stream, store_keys.GROUP)
    assert pending["pending"] == 3
    assert {(who["name"], who["pending"]) for who in pending["consumers"]} == {("w1", 2), ("w2", 1)}
    for claim in running:
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert (await client.xpending(stream, store_keys.GROUP))["pending"] == 0
    assert await client.xlen(stream) == 1


async def test_three_lost_workers_make_a_dead_letter_with_its_reason(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    for attempt in (1, 2, 3):
        assert (await hand.claim_one()).attempt == attempt
        await hand.lose_lease(job_id)
        report = await queue.upkeep.sweep()
    assert report.failed == (job_id,)
    assert await hand.claim() == []
    record = await queue.owner.get(job_id)
    assert record is not None and record.error is not None
    assert (record.status, record.error.code, record.attempts) == ("failed", "worker-lost", 3)
    (_, letter), *others = await queue.store.client.xrange(store_keys.DEAD)
    assert not others
    assert (letter["job"], letter["reason"]) == (job_id, "worker-lost")
    assert (await queue.upkeep.totals())["dead_letter|worker-lost"] == 1


async def test_failed_attempts_are_tried_again_then_given_up(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    settled = [await queue.claims.fail_attempt(await hand.claim_one(), FAILURE) for _ in range(3)]
    assert settled == ["requeued", "requeued", "failed"]
    record = await queue.owner.get(job_id)
    assert record is not None and record.error == FAILURE
    assert (await queue.upkeep.totals())["dead_letter|engine-failed"] == 1


async def test_handing_back_keeps_place_and_attempts(queue: JobQueue, hand: Hand) -> None:
    first = await hand.post()
    await hand.post()
    for _ in range(5):
        claim = await hand.claim_one()
        assert (claim.spec.id, claim.attempt) == (first, 1)
        assert await queue.claims.hand_back(claim)
    record = await queue.owner.get(first)
    assert record is not None and (record.status, record.attempts, record.position) == ("queued", 0, 0)


async def test_a_handed_back_job_wakes_another_worker(
    queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hand.post()
    claim = await hand.claim_one("w1")
    monkeypatch.setattr("service.jobs.claims.MAX_BLOCK_S", 120.0)
    waiting = asyncio.create_task(hand.claim("w2", block_s=120))
    await asyncio.sleep(0.2)
    await queue.claims.hand_back(claim)
    assert len(await asyncio.wait_for(waiting, 60)) == 1


async def test_finishing_twice_is_finishing_once(queue: JobQueue, hand: Hand) -> None:
    """A worker whose answer was lost repeats the call and must not take it for a lost lease."""
    await hand.post()
    claim = await hand.claim_one()
    assert await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert (await queue.upkeep.totals()) == {"requests|succeeded|": 1}


async def test_progress_is_part_of_the_record(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    assert await queue.claims.progress(claim, stage="denoise", step=2, steps=4, preview=b"\xff\xd8jpeg")
    record = await queue.owner.get(job_id)
    assert record is not None
    assert (record.stage, record.step, record.steps) == ("denoise", 2, 4)
    assert record.started_at == pytest.approx(claim.spec.created_at, abs=5)


async def test_records_run_out_after_their_time(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    client, ttl_s = queue.store.client, queue.settings.result_ttl_s
    assert ttl_s - 5 < await client.ttl(store_keys.JOB + job_id) <= ttl_s
    assert 590 < await client.ttl(store_keys.EVENTS + job_id) <= 600
    await client.delete(store_keys.JOB + job_id)
    assert await queue.owner.get(job_id) is None
    assert await queue.owner.existed(job_id, "shop")
    assert not await queue.owner.existed(job_id, "other")
    assert not await queue.owner.existed("never", "shop")


async def test_nothing_is_left_of_finished_jobs_but_records(queue: JobQueue, hand: Hand) -> None:
    for tenant in ("a", "b", "b"):
        await hand.post(tenant)
    for claim in await hand.claim(max_jobs=8):
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
    left = {key async for key in queue.store.client.scan_iter()}
    kinds = {key.removeprefix(store_keys.PREFIX).split(":")[0] for key in left}
    assert kinds == {"job", "events", "gone", "kept", "stream", "fence", "service", "totals"}
