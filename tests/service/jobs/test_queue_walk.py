"""Random walks through every operation, with lost workers and zombies; after each the store must add up."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from queue_hand import RESULT, Hand

from service.jobs import keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import TERMINAL, Claim, JobError

FAILURE = JobError(code="engine-failed", message="The engine failed.", retryable=True)
PRIORITIES = ("high", "normal", "low")
STEPS = 250


class Walk:
    """One walk: what was posted, every claim ever made (stale ones too), what each finish answered."""

    def __init__(self, queue: JobQueue, hand: Hand, seed: int) -> None:
        self.queue, self.hand, self.chance = queue, hand, random.Random(seed)
        self.posted: list[str] = []
        self.claims: list[Claim] = []
        self.visible: Counter[str] = Counter()

    async def step(self) -> None:
        moves = {
            self.post: 5,
            self.claim: 5,
            self.finish: 5,
            self.fail: 2,
            self.hand_back: 2,
            self.lose: 2,
            self.cancel: 1,
            self.erase: 1,
            self.sweep: 2,
            self.expire: 1,
        }
        (move,) = self.chance.choices(list(moves), list(moves.values()))
        await move()

    async def post(self) -> None:
        tenant, priority = self.chance.choice("abc"), self.chance.choice(PRIORITIES)
        self.posted.append(await self.hand.post(tenant, priority=priority))

    async def claim(self) -> None:
        worker = f"w{self.chance.randrange(3)}"
        self.claims += await self.hand.claim(worker, max_jobs=self.chance.randint(1, 4), budget=250)

    def some_claim(self) -> Claim | None:
        return self.chance.choice(self.claims) if self.claims else None

    async def finish(self) -> None:
        if claim := self.some_claim():
            status = self.chance.choice(("succeeded", "succeeded", "failed"))
            if status == "succeeded":
                done = await self.queue.finish(claim, status="succeeded", result=RESULT)
            else:
                done = await self.queue.finish(claim, status="failed", error=FAILURE)
            if done:
                self.visible[claim.spec.id] += 1
                self.claims.remove(claim)

    async def fail(self) -> None:
        if claim := self.some_claim():
            await self.queue.fail_attempt(claim, FAILURE)

    async def hand_back(self) -> None:
        if claim := self.some_claim():
            await self.queue.hand_back(claim)

    async def lose(self) -> None:
        running = await self.queue.store.client.zrange(keys.LEASES, 0, -1)
        if running:
            await self.hand.lose_lease(self.chance.choice(running))

    async def cancel(self) -> None:
        if self.posted:
            await self.queue.cancel(self.chance.choice(self.posted))

    async def erase(self) -> None:
        if self.posted:
            job_id = self.chance.choice(self.posted)
            await self.queue.erase(job_id)
            self.posted.remove(job_id)

    async def sweep(self) -> None:
        await self.queue.sweep()

    async def expire(self) -> None:
        if self.posted:
            job_id, client = self.chance.choice(self.posted), self.queue.store.client
            if await client.zscore(keys.DEADLINES, job_id) is not None:
                await client.zadd(keys.DEADLINES, {job_id: 1})
                await client.hset(keys.JOB + job_id, "deadline", 1)

    async def check(self) -> None:
        client = self.queue.store.client
        by_status: dict[str, set[str]] = {"queued": set(), "processing": set()}
        for job_id in self.posted:
            by_status.setdefault(await self.hand.status(job_id), set()).add(job_id)
        running, queued = by_status["processing"], by_status["queued"]
        waiting: list[str] = []
        for priority in PRIORITIES:
            waiting += await client.zrange(keys.WAITING + priority, 0, -1)
        assert len(waiting) == len(set(waiting)) and set(waiting) == queued
        assert set(await client.zrange(keys.LEASES, 0, -1)) == running
        for everything in (keys.IN_FLIGHT, keys.DEADLINES):
            assert set(await client.zrange(everything, 0, -1)) == running | queued
        tenants = [member for tenant in "abc" for member in await client.smembers(keys.TENANT + tenant)]
        assert sorted(tenants) == sorted(running | queued)
        entries = [
            fields["job"] for priority in PRIORITIES for _, fields in await client.xrange(keys.STREAM + priority)
        ]
        assert sorted(entries) == sorted(running | queued)


@pytest.mark.parametrize("seed", range(4))
async def test_the_store_adds_up_after_every_move(queue: JobQueue, hand: Hand, seed: int) -> None:
    walk = Walk(queue, hand, seed)
    for number in range(STEPS):
        await walk.step()
        if number % 5 == 0:
            await walk.check()
    await walk.check()
    assert max(walk.visible.values()) == 1
    client = queue.store.client
    while batch := await hand.claim(max_jobs=8):
        for claim in batch:
            await queue.finish(claim, status="succeeded", result=RESULT)
    for job_id in await client.zrange(keys.LEASES, 0, -1):
        await queue.cancel(job_id)
        await hand.lose_lease(job_id)
    await queue.sweep()
    await walk.check()
    assert (await queue.backlog()).in_flight == 0
    for job_id in walk.posted:
        kinds = [event.type async for event in queue.subscribe(job_id)]
        assert sum(kind in TERMINAL for kind in kinds) == 1
        assert kinds[-1] == await hand.status(job_id)
    totals = await queue.totals()
    ended = sum(count for name, count in totals.items() if name.startswith("requests|"))
    accepted = len({key async for key in client.scan_iter(keys.GONE + "*")})
    assert ended == accepted
    assert not {key async for key in client.scan_iter(keys.TENANT + "*")}
    assert not {key async for key in client.scan_iter(keys.TURNS + "*")}
