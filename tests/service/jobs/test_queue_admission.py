"""Admission: one atomic decision, each refusal told apart, idempotency under parallel posts."""

from __future__ import annotations

import asyncio

import pytest
from queue_hand import RESULT, UNLIMITED, Hand, make_spec

from service.errors import Conflict, IdempotencyMismatch, QueueFull, TooManyRequests
from service.jobs import store_keys, submission
from service.jobs.queue import JobQueue
from service.jobs.schemas import Existing, Limits, Reserved
from service.settings import load_settings


async def test_a_submitted_job_can_be_read_back_whole(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve()
    spec = make_spec(reservation, prompt="tuck it in 👗", metadata={"order": "17"}, traceparent="00-a-b-01")
    assert await queue.owner.get(reservation.id) is None
    await queue.submission.submit(reservation, spec)
    record = await queue.owner.get(reservation.id)
    assert record is not None
    assert record.spec == spec
    assert (record.status, record.position, record.attempts) == ("queued", 0, 0)
    assert len(reservation.id) == 32


async def test_fifty_parallel_posts_with_one_key_make_one_job(queue: JobQueue, hand: Hand) -> None:
    async def post() -> str:
        answer = await queue.submission.reserve(tenant="t", idempotency_key="k", body_digest="d", limits=UNLIMITED)
        if isinstance(answer, Existing):
            return answer.job_id
        await asyncio.sleep(0.1)
        await queue.submission.submit(answer, make_spec(answer))
        return answer.id

    ids = await asyncio.gather(*(post() for _ in range(50)))
    assert len(set(ids)) == 1
    assert (await queue.upkeep.backlog()).in_flight == 1
    assert await queue.store.client.xlen(store_keys.STREAM + "normal") == 1


async def test_the_same_key_with_another_body_is_refused_even_after_the_end(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve(key="k", digest="one")
    await queue.submission.submit(reservation, make_spec(reservation))
    with pytest.raises(IdempotencyMismatch):
        await hand.reserve(key="k", digest="two")
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    with pytest.raises(IdempotencyMismatch):
        await hand.reserve(key="k", digest="two")
    again = await queue.submission.reserve(tenant="shop", idempotency_key="k", body_digest="one", limits=UNLIMITED)
    assert again == Existing(job_id=reservation.id)


async def test_keys_of_different_tenants_do_not_meet(hand: Hand) -> None:
    first = await hand.reserve("one", key="k", digest="a")
    second = await hand.reserve("two", key="k", digest="b")
    assert first.id != second.id


async def test_a_twin_still_being_read_is_a_retryable_conflict(
    queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "PENDING_WAIT_S", 0.1)
    await hand.reserve(key="k")
    with pytest.raises(Conflict) as caught:
        await hand.reserve(key="k")
    assert caught.value.code == "idempotency-in-progress"
    assert caught.value.retryable


async def test_a_released_key_lets_its_waiting_twin_in(queue: JobQueue, hand: Hand) -> None:
    first = await hand.reserve(key="k")
    twin = asyncio.create_task(hand.reserve(key="k"))
    await asyncio.sleep(0.05)
    await queue.submission.release(first)
    assert (await twin).id != first.id


async def test_a_full_queue_refuses_with_a_time_to_come_back(queue: JobQueue, hand: Hand) -> None:
    await queue.store.client.hset(store_keys.SERVICE, "seconds", "0.5")
    for _ in range(200):
        await hand.post()
    with pytest.raises(QueueFull) as caught:
        await hand.reserve()
    assert caught.value.retry_after == 60
    assert queue.metrics is not None
    assert queue.metrics.admission_rejected.labels("queue-full")._value.get() == 1


async def test_retry_after_follows_backlog_and_service_rate(queue: JobQueue, hand: Hand) -> None:
    await queue.store.client.hset(store_keys.SERVICE, "seconds", "0.1")
    for _ in range(200):
        await hand.post()
    with pytest.raises(QueueFull) as caught:
        await hand.reserve()
    assert caught.value.retry_after == 20
    assert (await queue.upkeep.backlog()).seconds == pytest.approx(20)


async def test_concurrency_counts_what_is_in_flight_and_frees_at_the_end(queue: JobQueue, hand: Hand) -> None:
    limits = Limits(concurrency=2)
    await hand.post()
    await hand.reserve()
    with pytest.raises(TooManyRequests) as caught:
        await hand.reserve(limits=limits)
    assert caught.value.code == "concurrency-limited"
    assert isinstance(await hand.reserve("other", limits=limits), Reserved)
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    await hand.reserve(limits=limits)


async def test_the_rate_limit_says_when_the_next_request_fits(hand: Hand) -> None:
    limits = Limits(rate_per_minute=3)
    for _ in range(3):
        await hand.reserve(limits=limits)
    with pytest.raises(TooManyRequests) as caught:
        await hand.reserve(limits=limits)
    assert caught.value.code == "rate-limited"
    assert 15 <= (caught.value.retry_after or 0) <= 20


async def test_a_repeated_key_costs_neither_rate_nor_quota(queue: JobQueue) -> None:
    limits = Limits(rate_per_minute=1, daily_quota=1, concurrency=1)
    first = await queue.submission.reserve(tenant="t", idempotency_key="k", body_digest="d", limits=limits)
    assert isinstance(first, Reserved)
    await queue.submission.submit(first, make_spec(first))
    for _ in range(5):
        again = await queue.submission.reserve(tenant="t", idempotency_key="k", body_digest="d", limits=limits)
        assert again == Existing(job_id=first.id)


async def test_the_daily_quota_is_refunded_by_release_only(queue: JobQueue, hand: Hand) -> None:
    limits = Limits(daily_quota=1)
    first = await hand.reserve(limits=limits)
    with pytest.raises(TooManyRequests) as caught:
        await hand.reserve(limits=limits)
    assert caught.value.code == "quota-exceeded"
    assert 0 < (caught.value.retry_after or 0) <= 86_400
    await queue.submission.release(first)
    await queue.submission.release(first)
    second = await hand.reserve(limits=limits)
    await queue.submission.submit(second, make_spec(second))
    await queue.submission.release(second)
    with pytest.raises(TooManyRequests):
        await hand.reserve(limits=limits)
    assert await hand.status(second.id) == "queued"


async def test_what_the_records_of_a_key_take_is_bounded(queue: JobQueue, hand: Hand) -> None:
    limits, prompt = Limits(stored_bytes=20_000), "x" * 3000
    posted = []
    for _ in range(4):
        reservation = await hand.reserve(limits=limits)
        await queue.submission.submit(reservation, make_spec(reservation, prompt=prompt))
        posted.append(reservation.id)
    with pytest.raises(TooManyRequests) as caught:
        await hand.reserve(limits=limits)
    assert caught.value.code == "storage-exceeded"
    assert 0 < (caught.value.retry_after or 0) <= 1.1 * (queue.settings.result_ttl_s + queue.settings.deadline_max_s)
    await hand.reserve(tenant="other", limits=limits)
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    with pytest.raises(TooManyRequests):
        await hand.reserve(limits=limits)
    await queue.owner.erase(posted[0])
    await queue.owner.erase(posted[0])
    again = await hand.reserve(limits=limits)
    await queue.submission.release(again)
    for job_id in posted[1:]:
        await queue.owner.erase(job_id)
    assert set(await queue.store.client.hvals(store_keys.KEPT + "shop")) == {"0"}


async def test_records_that_have_run_out_are_not_counted(store_url: str) -> None:
    settings = load_settings(redis_url=store_url, result_ttl_s=1, deadline_max_s=1, store_timeout_s=30)
    queue = await JobQueue.connect(settings)
    hand, limits = Hand(queue), Limits(stored_bytes=1)
    await hand.post()
    with pytest.raises(TooManyRequests) as caught:
        await hand.reserve(limits=limits)
    await asyncio.sleep((caught.value.retry_after or 0) + 0.1)
    reservation = await hand.reserve(limits=limits)
    await queue.submission.submit(reservation, make_spec(reservation))
    assert await queue.store.client.hlen(store_keys.KEPT + "shop") == 1
    await queue.close()


async def test_submitting_twice_is_one_job(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve()
    spec = make_spec(reservation)
    await queue.submission.submit(reservation, spec)
    await queue.submission.submit(reservation, spec)
    assert await queue.store.client.xlen(store_keys.STREAM + "normal") == 1
    assert (await queue.upkeep.backlog()).waiting == 1


async def test_submitting_a_released_reservation_is_a_conflict(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve()
    await queue.submission.release(reservation)
    with pytest.raises(Conflict):
        await queue.submission.submit(reservation, make_spec(reservation))


async def test_a_job_must_be_its_reservation_s(queue: JobQueue, hand: Hand) -> None:
    reservation = await hand.reserve()
    with pytest.raises(ValueError, match="reservation"):
        await queue.submission.submit(reservation, make_spec(reservation, tenant="someone else"))


async def test_a_gateway_that_died_gives_its_room_back(store_url: str, tmp_path: object) -> None:
    settings = load_settings(redis_url=store_url, data_dir=tmp_path, max_in_flight=1)
    queue = await JobQueue.connect(settings)
    try:
        hand = Hand(queue)
        for _ in range(2):
            lost = await hand.reserve(key="k")
            with pytest.raises(QueueFull):
                await hand.reserve()
            await queue.store.client.zadd(store_keys.RESERVATIONS, {lost.id: 1})
        report = await queue.upkeep.sweep()
        assert report.reservations == (lost.id,)
        assert (await queue.upkeep.backlog()).in_flight == 0
    finally:
        await queue.close()


async def learned(queue: JobQueue, hand: Hand, seconds: float) -> None:
    """The store believes that one job takes so long; one worker is announced."""
    await hand.post()
    await queue.claims.finish(await hand.claim_one(), status="succeeded", result=RESULT)
    await queue.store.client.hset(store_keys.SERVICE, "seconds", seconds)
    await queue.store.client.zadd(store_keys.WORKERS, {"w1": 9e15})


async def accepted_until_full(hand: Hand, tenant: str) -> int:
    for count in range(100):
        try:
            await hand.reserve(tenant)
        except QueueFull:
            return count
    raise AssertionError("never full")


async def test_work_that_would_wait_too_long_is_refused(store_url: str) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=store_url, max_backlog_s=10, store_timeout_s=5))
    hand = Hand(queue)
    await learned(queue, hand, 0.25)
    assert await accepted_until_full(hand, "shop") == 32
    await queue.close()


async def test_a_flood_leaves_room_for_others_and_two_floods_share(store_url: str) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=store_url, max_backlog_s=10, store_timeout_s=5))
    hand = Hand(queue)
    await learned(queue, hand, 0.1)
    counts = {"one": 0, "two": 0}
    open_to = set(counts)
    while open_to:
        for tenant in sorted(open_to):
            try:
                await hand.reserve(tenant)
                counts[tenant] += 1
            except QueueFull:
                open_to.discard(tenant)
    assert abs(counts["one"] - counts["two"]) <= 2, counts
    assert 80 <= sum(counts.values()) <= 92
    await hand.reserve("newcomer")
    await queue.close()


async def test_slow_engines_keep_a_few_jobs_waiting_and_zero_is_no_limit(store_url: str) -> None:
    queue = await JobQueue.connect(load_settings(redis_url=store_url, max_backlog_s=1, store_timeout_s=5))
    hand = Hand(queue)
    await learned(queue, hand, 60.0)
    assert await accepted_until_full(hand, "shop") == 2
    await queue.close()
    queue = await JobQueue.connect(load_settings(redis_url=store_url, max_backlog_s=0, store_timeout_s=5))
    for _ in range(20):
        await Hand(queue).reserve()
    await queue.close()


async def test_who_was_just_refused_is_turned_away_before_the_body_unless_the_key_has_a_job(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "FULL_FOR_S", 60.0)
    queue = await JobQueue.connect(load_settings(redis_url=store_url, max_in_flight=1, store_timeout_s=5))
    hand = Hand(queue)
    await queue.submission.turn_away(tenant="shop", idempotency_key=None)
    await hand.reserve(key="k")
    with pytest.raises(QueueFull):
        await hand.reserve()
    for key in (None, "new"):
        with pytest.raises(QueueFull) as refused:
            await queue.submission.turn_away(tenant="shop", idempotency_key=key)
        assert refused.value.retry_after is not None and refused.value.retry_after >= 1
    await queue.submission.turn_away(tenant="shop", idempotency_key="k")
    await queue.submission.turn_away(tenant="other", idempotency_key=None)
    await queue.close()
