"""Claims: grouping by token budget, priorities without starvation, tenants taking turns, quick waking."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from queue_hand import RESULT, Hand

from engine_build.token_budget import batches
from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, WorkerInfo


def ids(claims: list[Claim]) -> list[str]:
    return [claim.spec.id for claim in claims]


async def age(queue: JobQueue, job_id: str, priority: str, seconds: float) -> None:
    """Make a waiting job look as if it had come earlier."""
    await queue.store.client.zincrby(store_keys.WAITING + priority, -seconds * 1000, job_id)
    await queue.store.client.hincrby(store_keys.JOB + job_id, "queued", int(-seconds * 1000))


async def test_claims_group_up_to_the_token_budget(hand: Hand) -> None:
    posted = [await hand.post(tokens=tokens) for tokens in (400, 400, 300, 100)]
    assert ids(await hand.claim(max_jobs=8, budget=1000)) == posted[:2]
    assert ids(await hand.claim(max_jobs=8, budget=1000)) == posted[2:]


async def test_a_job_over_the_budget_still_runs_alone(hand: Hand) -> None:
    big = await hand.post(tokens=5000)
    await hand.post(tokens=10)
    assert ids(await hand.claim(max_jobs=8, budget=1000)) == [big]


@pytest.mark.parametrize("seed", range(6))
async def test_claims_share_a_batch_by_the_one_rule_of_the_token_budget(queue: JobQueue, hand: Hand, seed: int) -> None:
    """Lua cannot call `engine_build.token_budget`; here it is held to it, with jobs among them that run alone."""
    draw = random.Random(seed)
    posted = {await hand.post(tokens=tokens): tokens for tokens in draw.choices((50, 300, 400, 700, 1000, 1300), k=12)}
    solo = set(draw.sample(list(posted), seed % 3))
    for job_id in solo:
        await queue.store.client.hset(store_keys.JOB + job_id, "solo", "1")
    for expected in batches(posted, 1000, posted.__getitem__, solo.__contains__):
        assert ids(await hand.claim(max_jobs=20, budget=1000)) == expected


async def test_jobs_of_another_priority_fill_a_batch_where_one_line_is_closed(hand: Hand) -> None:
    high = [await hand.post(tokens=tokens, priority="high") for tokens in (600, 700)]
    normal = await hand.post(tokens=300)
    assert ids(await hand.claim(max_jobs=8, budget=1000)) == [high[0], normal]
    assert ids(await hand.claim(max_jobs=8, budget=1000)) == [high[1]]


async def test_max_jobs_counts_over_all_priorities_together(hand: Hand) -> None:
    for priority in ("high", "normal", "low"):
        for _ in range(3):
            await hand.post(priority=priority)
    assert len(await hand.claim(max_jobs=4)) == 4


async def test_higher_priorities_go_first(hand: Hand) -> None:
    low = await hand.post(priority="low")
    normal = await hand.post(priority="normal")
    high = await hand.post(priority="high")
    assert ids(await hand.claim(max_jobs=3)) == [high, normal, low]


async def test_a_low_job_is_overtaken_for_a_bounded_time_only(queue: JobQueue, hand: Hand) -> None:
    low = await hand.post(priority="low")
    await age(queue, low, "low", 29)
    first = await hand.post(priority="high")
    assert ids(await hand.claim()) == [first]
    await age(queue, low, "low", 2)
    for _ in range(3):
        await hand.post(priority="high")
    assert ids(await hand.claim()) == [low]


async def test_low_jobs_are_served_under_endless_high_load(queue: JobQueue, hand: Hand) -> None:
    low = await hand.post(priority="low")
    for turn in range(100):
        await hand.post(priority="high")
        await hand.post(priority="high")
        (claim,) = await hand.claim()
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
        if claim.spec.id == low:
            assert turn > 20
            break
        await age(queue, low, "low", 1)
    else:
        raise AssertionError("the low job starved")


async def test_tenants_take_turns(queue: JobQueue, hand: Hand) -> None:
    greedy = [await hand.post("greedy") for _ in range(20)]
    modest = [await hand.post("modest") for _ in range(2)]
    order = [(await hand.claim_one()).spec.id for _ in range(6)]
    assert set(modest) < set(order)
    assert greedy[0] == order[0]


async def test_jobs_of_one_tenant_stay_in_their_order(queue: JobQueue, hand: Hand) -> None:
    await queue.store.client.hset(store_keys.SERVICE, "seconds", 5)
    posted = [await hand.post() for _ in range(6)]
    served = [(await hand.claim_one()) for _ in range(4)]
    for claim in served:
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
    posted += [await hand.post() for _ in range(3)]
    served += [(await hand.claim_one()) for _ in range(5)]
    assert ids(served) == posted


async def test_two_floods_are_served_in_turn_and_a_newcomer_at_once(queue: JobQueue, hand: Hand) -> None:
    one = [await hand.post("one") for _ in range(12)]
    two = [await hand.post("two") for _ in range(4)]
    first = {(await hand.claim_one()).spec.id for _ in range(8)}
    assert 3 <= len(first & set(one)) <= 5 and 3 <= len(first & set(two)) <= 4
    newcomer = await hand.post("three")
    assert newcomer in {(await hand.claim_one()).spec.id for _ in range(2)}


async def test_positions_follow_the_claim_order(queue: JobQueue, hand: Hand) -> None:
    low = await hand.post(priority="low")
    normal = await hand.post(priority="normal")
    high = await hand.post(priority="high")
    places = {}
    for job_id in (low, normal, high):
        record = await queue.owner.get(job_id)
        assert record is not None
        places[job_id] = record.position
    assert places == {high: 0, normal: 1, low: 2}
    await hand.claim()
    record = await queue.owner.get(low)
    assert record is not None and record.position == 1


async def test_no_job_is_dropped_however_many_wait(hand: Hand) -> None:
    posted = {await hand.post(f"tenant-{n % 7}") for n in range(200)}
    claimed: set[str] = set()
    while batch := await hand.claim(max_jobs=16, budget=10**9):
        assert not claimed & set(ids(batch))
        claimed |= set(ids(batch))
    assert claimed == posted


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> float:
    """Nobody who waits looks again by himself in the time of a test: who finds work within it was woken."""
    monkeypatch.setattr("service.jobs.claims.MAX_BLOCK_S", 120.0)
    return 60.0


async def test_an_idle_worker_is_woken(hand: Hand, only_woken: float) -> None:
    waiting = asyncio.create_task(hand.claim(block_s=120))
    await asyncio.sleep(0.2)
    job_id = await hand.post()
    assert ids(await asyncio.wait_for(waiting, only_woken)) == [job_id]


async def test_every_idle_worker_finds_its_job(hand: Hand, only_woken: float) -> None:
    waiting = [asyncio.create_task(hand.claim(f"w{n}", block_s=120)) for n in range(4)]
    await asyncio.sleep(0.1)
    posted = {await hand.post() for _ in range(4)}
    claimed = await asyncio.wait_for(asyncio.gather(*waiting), only_woken)
    assert {claims[0].spec.id for claims in claimed} == posted


async def test_work_left_behind_wakes_the_next_worker(queue: JobQueue, hand: Hand, only_woken: float) -> None:
    for _ in range(2):
        await hand.post()
    await queue.store.client.delete(store_keys.WAKE)
    assert len(await hand.claim("w1")) == 1
    assert len(await asyncio.wait_for(hand.claim("w2", block_s=120), only_woken)) == 1


async def test_an_empty_queue_answers_after_the_wait(hand: Hand) -> None:
    started = time.monotonic()
    assert await asyncio.wait_for(hand.claim(block_s=0.3), 60) == []
    assert time.monotonic() - started >= 0.3


async def test_who_waits_for_work_asks_the_store_once_before_and_once_after(queue: JobQueue, hand: Hand) -> None:
    async def asked() -> dict[str, int]:
        told = await queue.store.client.info("commandstats")
        return {name: told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "blpop")}

    await hand.claim()
    before = await asked()
    await hand.claim(block_s=3)
    after = await asked()
    assert {name: after[name] - before[name] for name in after} == {"evalsha": 2, "blpop": 1}


async def test_a_poisonous_job_spares_its_batch_mates(queue: JobQueue, hand: Hand) -> None:
    posted = [await hand.post() for _ in range(3)]
    batch = await hand.claim(max_jobs=3)
    assert ids(batch) == posted
    for claim in batch:
        await hand.lose_lease(claim.spec.id)
    assert set((await queue.upkeep.sweep()).requeued) == set(posted)
    for job_id in posted:
        assert ids(await hand.claim(max_jobs=3)) == [job_id]


async def test_workers_are_known_while_they_announce_themselves(queue: JobQueue) -> None:
    info = WorkerInfo(
        id="w1",
        model="nano",
        backend="torch",
        device="cpu",
        reference_attention="isolated",
        max_references=7,
        default_size=(192, 256),
        max_pixels=10**6,
        size_multiple=16,
        default_steps=4,
        max_steps=50,
        token_budget=4096,
        note="",
    )
    await queue.workers.announce(info, ttl_s=60)
    await queue.workers.announce(info.model_copy(update={"id": "w2"}), ttl_s=0.1)
    await asyncio.sleep(0.15)
    assert await queue.workers.ready() == [info]
    await queue.upkeep.sweep()
    assert await queue.store.client.hlen(store_keys.WORKER_INFO) == 1
    await queue.workers.withdraw("w1")
    assert await queue.workers.ready() == []


async def test_the_service_rate_is_learnt_from_what_finished(queue: JobQueue, hand: Hand) -> None:
    for _ in range(2):
        await hand.post()
    batch = await hand.claim(max_jobs=2)
    await asyncio.sleep(0.4)
    for claim in batch:
        await queue.claims.finish(claim, status="succeeded", result=RESULT)
    learnt = float(await queue.store.client.hget(store_keys.SERVICE, "seconds") or 0)
    assert learnt >= 0.2, "two jobs together took 0.4 s at least"
    for _ in range(10):
        await hand.post()
    assert (await queue.upkeep.backlog()).seconds == pytest.approx(10 * learnt, rel=0.01)
