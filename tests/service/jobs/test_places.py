"""One round for all who follow: no question to the store for each, and no change that nobody hears of."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from queue_hand import RESULT, Hand

from service.errors import StoreUnavailable
from service.jobs import places
from service.jobs.owner import Notices
from service.jobs.queue import JobQueue
from service.jobs.schemas import Event


async def collect(queue: JobQueue, job_id: str) -> list[Event]:
    return [event async for event in queue.owner.subscribe(job_id)]


@pytest.fixture
def asked(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each script was run."""
    counts: Counter[str] = Counter()
    script = queue.store.script

    async def counted(name: str, *words: Any, **more: Any) -> Any:
        counts[name] += 1
        return await script(name, *words, **more)

    monkeypatch.setattr(queue.store, "script", counted)
    return counts


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every notice of the store is lost."""
    monkeypatch.setattr(Notices, "_wake", lambda *_: None)


async def rounds(asked: Counter[str], count: int) -> None:
    async with asyncio.timeout(120):
        start = asked["places"]
        while asked["places"] < start + count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_hundreds_who_follow_and_wait_cost_one_question_a_round(
    queue: JobQueue, hand: Hand, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ROUND_S", 0.1)
    jobs = [await hand.post() for _ in range(20)]
    followers = [asyncio.create_task(collect(queue, job)) for job in jobs * 5]
    waiting = [asyncio.create_task(queue.owner.ended(job)) for job in jobs * 5]
    async with asyncio.timeout(120):
        while True:
            before = dict(asked)
            await rounds(asked, 10)
            more = {name for name, count in asked.items() if count != before.get(name)}
            if more == {"places"} and asked["place"] >= len(followers):
                break
    for job in jobs:
        await queue.owner.cancel(job)
    records = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert {record.status for record in records if record} == {"canceled"}
    assert all(events[-1].type == "canceled" for events in await asyncio.wait_for(asyncio.gather(*followers), 60))
    await rounds_end(queue)


async def rounds_end(queue: JobQueue) -> None:
    """With nobody left to wake there are no rounds."""
    async with asyncio.timeout(60):
        task = queue.owner.event_log.places._rounds
        assert task is not None
        await task


async def test_what_no_notice_tells_is_found_in_a_round(queue: JobQueue, hand: Hand, deaf: None) -> None:
    job_id = await hand.post()
    following, waiting = asyncio.create_task(collect(queue, job_id)), asyncio.create_task(queue.owner.ended(job_id))
    claim = await hand.claim_one()
    await asyncio.sleep(2.5)
    await queue.claims.progress(claim, stage="denoise", step=1, steps=2)
    await queue.claims.finish(claim, status="succeeded", result=RESULT)
    events = await asyncio.wait_for(following, 60)
    assert [event.type for event in events] == ["queued", "processing", "progress", "succeeded"]
    record = await asyncio.wait_for(waiting, 60)
    assert record is not None and record.status == "succeeded"


async def test_more_jobs_than_one_call_takes_are_all_looked_after(
    queue: JobQueue, hand: Hand, deaf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "JOBS_A_CALL", 3)
    jobs = [await hand.post() for _ in range(8)]
    waiting = [asyncio.create_task(queue.owner.ended(job)) for job in jobs]
    await asyncio.sleep(0.2)
    for job in jobs:
        await queue.owner.erase(job)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [None] * 8


async def test_followers_hear_of_a_store_that_went(
    queue: JobQueue, hand: Hand, deaf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = asyncio.create_task(collect(queue, await hand.post()))
    await asyncio.sleep(0.2)

    async def away(name: str, *words: Any, **more: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(queue.store, "script", away)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(following, 60)
