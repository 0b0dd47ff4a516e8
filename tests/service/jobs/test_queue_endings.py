"""Deadlines, cancellation and erasure, and their races with a worker."""

from __future__ import annotations

import asyncio

import pytest
from queue_hand import RESULT, Hand, make_spec

from service.errors import NotFound
from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import Canceled
from service.jobs.upkeep import TotalsCopy
from service.metrics import Metrics


async def test_a_late_queued_job_expires_in_the_sweep(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await hand.pass_deadline(job_id)
    assert (await queue.upkeep.sweep()).expired == (job_id,)
    record = await queue.owner.get(job_id)
    assert record is not None and record.error is not None
    assert (record.status, record.error.code, record.error.retryable) == (
        "expired",
        "deadline-exceeded",
        True,
    )
    assert (await queue.upkeep.backlog()).in_flight == 0


async def test_no_work_starts_after_a_deadline(queue: JobQueue, hand: Hand) -> None:
    late = await hand.post()
    fresh = await hand.post()
    await hand.pass_deadline(late)
    assert [claim.spec.id for claim in await hand.claim(max_jobs=4)] == [fresh]
    assert await hand.status(late) == "expired"


async def test_a_running_job_hears_of_its_deadline(
    queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.upkeep.DEADLINE_GRACE_S", 60)
    job_id = await hand.post()
    claim = await hand.claim_one()
    await hand.pass_deadline(job_id)
    assert (await queue.upkeep.sweep()).expired == ()
    assert await queue.claims.heartbeat([claim]) == {job_id: "expired"}
    assert await queue.claims.finish(claim, status="expired")
    assert await hand.status(job_id) == "expired"
    assert (await queue.upkeep.totals())["deadline_exceeded"] == 1


async def test_a_running_job_ends_soon_after_its_deadline_without_its_worker(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    await queue.store.client.zadd(store_keys.LEASES, {job_id: 2**45})
    await hand.pass_deadline(job_id, by_s=3)
    assert (await queue.upkeep.sweep()).expired == (job_id,)
    assert not await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert await hand.status(job_id) == "expired"


async def test_a_lost_lease_past_its_deadline_expires(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await hand.claim_one()
    await hand.pass_deadline(job_id)
    await hand.lose_lease(job_id)
    assert (await queue.upkeep.sweep()).expired == (job_id,)


async def test_canceling_a_queued_job_ends_it_at_once(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    assert (await queue.owner.cancel(job_id)).status == "canceled"
    assert await hand.claim() == []
    assert (await queue.upkeep.backlog()).in_flight == 0
    assert (await queue.upkeep.totals())["canceled|queued"] == 1
    assert (await queue.owner.cancel(job_id)).status == "canceled"
    assert (await queue.upkeep.totals())["canceled|queued"] == 1


async def test_canceling_a_running_job_flags_it_for_its_worker(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    record = await queue.owner.cancel(job_id)
    assert (record.status, record.cancel_requested) == ("processing", True)
    assert await queue.claims.heartbeat([claim]) == {job_id: "canceled"}
    assert await queue.claims.finish(claim, status="canceled")
    assert await hand.status(job_id) == "canceled"
    assert (await queue.upkeep.totals())["canceled|running"] == 1


async def test_workers_hear_of_a_cancellation_at_once(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await hand.claim_one()
    heard = asyncio.create_task(anext(queue.workers.news().follow()))
    await asyncio.sleep(0.2)
    await queue.owner.cancel(job_id)
    assert await asyncio.wait_for(heard, 20) == Canceled(job_id=job_id)


async def test_a_picture_after_a_cancellation_is_not_shown(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    await queue.owner.cancel(job_id)
    assert not await queue.claims.finish(claim, status="succeeded", result=RESULT)
    record = await queue.owner.get(job_id)
    assert record is not None and (record.status, record.result) == ("canceled", None)


async def test_a_cancellation_after_the_picture_changes_nothing(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    record = await queue.owner.cancel(job_id)
    assert record.status == "succeeded" and not record.cancel_requested


async def test_a_canceled_job_ends_though_its_worker_vanished(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await hand.claim_one()
    await queue.owner.cancel(job_id)
    await hand.lose_lease(job_id)
    assert (await queue.upkeep.sweep()).canceled == (job_id,)
    assert await hand.claim() == []


async def test_a_canceled_job_handed_back_ends(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    await queue.owner.cancel(job_id)
    await queue.claims.hand_back(claim)
    assert await hand.status(job_id) == "canceled"


async def test_cancel_races_with_claim_and_finish_have_one_ending(queue: JobQueue, hand: Hand) -> None:
    posted = [await hand.post() for _ in range(40)]

    async def work() -> None:
        while batch := await hand.claim(max_jobs=4):
            for claim in batch:
                await queue.claims.finish(claim, status="succeeded", result=RESULT)

    await asyncio.gather(work(), work(), *(queue.owner.cancel(job_id) for job_id in posted))
    await queue.upkeep.sweep()
    for job_id in posted:
        kinds = [event.type async for event in queue.owner.subscribe(job_id)]
        assert sum(kind in ("succeeded", "canceled") for kind in kinds) == 1
        assert await hand.status(job_id) == kinds[-1]
    totals = await queue.upkeep.totals()
    assert totals.get("requests|succeeded|", 0) + totals.get("requests|canceled|canceled", 0) == 40
    assert (await queue.upkeep.backlog()).in_flight == 0


async def test_canceling_what_never_was(queue: JobQueue, hand: Hand) -> None:
    with pytest.raises(NotFound):
        await queue.owner.cancel("never")
    reservation = await hand.reserve()
    with pytest.raises(NotFound):
        await queue.owner.cancel(reservation.id)


async def test_erasing_leaves_nothing_of_a_job(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve(key="k")
    await queue.submission.submit(reservation, make_spec(reservation, prompt="private words"))
    claim = await hand.claim_one()
    await queue.claims.progress(claim, stage="denoise", step=1, steps=4, preview=b"private picture")
    record = await queue.owner.erase(reservation.id)
    assert record is not None and record.spec.person == "input/person"
    assert await queue.owner.get(reservation.id) is None
    assert await queue.owner.existed(reservation.id, "shop")
    assert not await queue.owner.existed(reservation.id, "other")
    client = queue.store.client
    left = {key async for key in client.scan_iter(f"*{reservation.id}*")}
    assert left == {store_keys.GONE + reservation.id}
    assert not [key async for key in client.scan_iter(store_keys.IDEMPOTENCY + "*")]
    assert await queue.claims.heartbeat([claim]) == {reservation.id: "lost"}
    assert not await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert await queue.owner.get(reservation.id) is None
    assert await queue.owner.erase(reservation.id) is None


async def test_erasing_hands_back_a_result_written_at_the_last_moment(queue: JobQueue, hand: Hand) -> None:
    """Whoever comes first, the picture's blob is known to someone who will delete it."""
    for _ in range(20):
        job_id = await hand.post()
        claim = await hand.claim_one()
        visible, erased = await asyncio.gather(
            queue.claims.finish(claim, status="succeeded", result=RESULT), queue.owner.erase(job_id)
        )
        assert erased is not None
        assert visible == (erased.result == RESULT)


async def test_metrics_follow_the_store_exactly(queue: JobQueue, hand: Hand, metrics: Metrics) -> None:
    for _ in range(3):
        await hand.post()
    canceled = await hand.post()
    await queue.owner.cancel(canceled)
    claim = await hand.claim_one()
    await queue.claims.finish(claim, status="succeeded", result=RESULT)
    await hand.claim_one()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    for _ in range(2):
        await queue.upkeep.observe(metrics)
    assert value("changeroom_requests_waiting") == 1
    assert value("changeroom_requests_running") == 1
    assert value("changeroom_requests_total", status="succeeded", reason="") == 1
    assert value("changeroom_requests_total", status="canceled", reason="canceled") == 1
    assert value("changeroom_canceled_total", phase="queued") == 1
    assert value("changeroom_request_latency_seconds_count", garments="1") == 1
    assert value("changeroom_queue_time_seconds_count") == 2
    fresh = Metrics()
    copy = TotalsCopy()
    copy.copy({"requests|failed|worker-lost": 5}, fresh)
    copy.copy({"requests|failed|worker-lost": 2}, fresh)
    assert (
        fresh.registry.get_sample_value("changeroom_requests_total", {"status": "failed", "reason": "worker-lost"}) == 7
    )
