"""Events: everything in order, nothing lost over a reconnect, followers woken at once and few connections."""

from __future__ import annotations

import asyncio
import base64

import pytest
from queue_hand import RESULT, Hand

from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import Event


async def collect(queue: JobQueue, job_id: str, last_id: str | None = None) -> list[Event]:
    return [event async for event in queue.owner.subscribe(job_id, last_id)]


async def run_to_the_end(queue: JobQueue, hand: Hand, steps: int = 4) -> None:
    claim = await hand.claim_one()
    for step in range(1, steps + 1):
        await queue.claims.progress(claim, stage="denoise", step=step, steps=steps, preview=b"jpeg %d" % step)
    await queue.claims.finish(claim, status="succeeded", result=RESULT)


async def test_a_follower_sees_the_whole_life_of_a_job(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    following = asyncio.create_task(collect(queue, job_id))
    await asyncio.sleep(0.05)
    await run_to_the_end(queue, hand)
    events = await asyncio.wait_for(following, 60)
    assert [event.type for event in events] == ["queued", "processing", *["progress"] * 4, "succeeded"]
    assert events[0].data["position"] == 0
    assert [event.data.get("step") for event in events[2:6]] == [1, 2, 3, 4]
    assert base64.b64decode(str(events[3].data["preview"])) == b"jpeg 2"
    assert events[-1].data["result"] == RESULT.model_dump()
    assert [event.id for event in events] == sorted({event.id for event in events}, key=sort_key)


def sort_key(event_id: str) -> tuple[int, int]:
    first, _, second = event_id.partition("-")
    return int(first), int(second)


async def test_a_preview_is_for_who_listens_when_it_comes_and_kept_nowhere(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    following = [asyncio.create_task(collect(queue, job_id)) for _ in range(3)]
    await asyncio.sleep(0.2)
    await run_to_the_end(queue, hand)
    for events in await asyncio.wait_for(asyncio.gather(*following), 60):
        shown = [base64.b64decode(str(event.data["preview"])) for event in events if event.type == "progress"]
        assert shown == [b"jpeg %d" % step for step in range(1, 5)]
    assert all("preview" not in event.data for event in await collect(queue, job_id))
    for _, fields in await queue.store.client.xrange(store_keys.EVENTS + job_id):
        assert base64.b64encode(b"jpeg 1").decode() not in fields["data"]
    notices = queue.owner.event_log.notices
    assert not notices._previews
    async with asyncio.timeout(60):
        while await queue.store.client.pubsub_channels(store_keys.PREVIEW + "*"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_reconnecting_after_any_event_loses_and_repeats_nothing(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await run_to_the_end(queue, hand)
    whole = await collect(queue, job_id)
    assert len(whole) == 7
    for index, event in enumerate(whole):
        assert await collect(queue, job_id, event.id) == whole[index + 1 :]


async def test_a_follower_that_came_back_mid_run_gets_the_rest_live(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    await queue.claims.progress(claim, stage="denoise", step=1, steps=2)
    seen = []
    async for event in queue.owner.subscribe(job_id):
        seen.append(event)
        if event.type == "progress":
            break
    following = asyncio.create_task(collect(queue, job_id, seen[-1].id))
    await asyncio.sleep(0.05)
    await queue.claims.progress(claim, stage="denoise", step=2, steps=2)
    await queue.claims.finish(claim, status="succeeded", result=RESULT)
    rest = await asyncio.wait_for(following, 60)
    assert [event.type for event in rest] == ["progress", "succeeded"]


async def test_an_event_wakes_its_follower(queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """No round looks after it in the time of this test."""
    monkeypatch.setattr("service.jobs.places.ROUND_S", 120.0)
    job_id = await hand.post()
    claim = await hand.claim_one()
    following = asyncio.create_task(collect(queue, job_id))
    await asyncio.sleep(0.2)
    await queue.claims.finish(claim, status="succeeded", result=RESULT)
    assert (await asyncio.wait_for(following, 60))[-1].type == "succeeded"


async def test_a_waiting_follower_sees_its_place_change(queue: JobQueue, hand: Hand) -> None:
    ahead = [await hand.post() for _ in range(2)]
    job_id = await hand.post()
    places: list[object] = []
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def watch() -> None:
        async for event in queue.owner.subscribe(job_id):
            places.append(event.data.get("position"))
            heard.put_nowait(places[-1])
            if event.type == "processing":
                return

    watching = asyncio.create_task(watch())

    async def told(place: int) -> None:
        async with asyncio.timeout(60):
            while await heard.get() != place:
                continue

    await told(2)
    await queue.owner.cancel(ahead[0])
    await told(1)
    await hand.claim_one()
    await told(0)
    await hand.claim_one()
    await asyncio.wait_for(watching, 60)
    assert places == [2, 1, 0, None]


async def test_three_hundred_followers_share_one_listener(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    claim = await hand.claim_one()
    followers = [asyncio.create_task(collect(queue, job_id)) for _ in range(300)]
    await asyncio.sleep(1)
    clients = await queue.store.client.client_list()
    assert len(clients) < 40
    await queue.claims.finish(claim, status="succeeded", result=RESULT)
    everyone = await asyncio.wait_for(asyncio.gather(*followers), 60)
    assert all(events[-1].type == "succeeded" for events in everyone)


async def test_following_ends_when_the_job_is_erased(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    following = asyncio.create_task(collect(queue, job_id))
    await asyncio.sleep(0.2)
    await queue.owner.erase(job_id)
    events = await asyncio.wait_for(following, 60)
    assert [event.type for event in events] == ["queued"]


async def test_the_ending_is_told_long_after_the_events_are_gone(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await run_to_the_end(queue, hand)
    ending = (await collect(queue, job_id))[-1]
    await queue.store.client.delete(store_keys.EVENTS + job_id)
    (event,) = await collect(queue, job_id)
    assert (event.type, event.data) == (ending.type, ending.data)
    assert abs(sort_key(event.id)[0] - sort_key(ending.id)[0]) < 1000
    assert await collect(queue, job_id, ending.id) == []


async def test_following_what_is_not_there_ends_at_once(queue: JobQueue) -> None:
    assert await asyncio.wait_for(collect(queue, "never"), 60) == []


async def test_an_id_beyond_the_end_of_a_finished_job_ends_at_once(queue: JobQueue, hand: Hand) -> None:
    job_id = await hand.post()
    await run_to_the_end(queue, hand)
    assert await asyncio.wait_for(collect(queue, job_id, "99999999999999-0"), 60) == []


@pytest.mark.parametrize("bad", ["", "$", "abc", "1-2-3", "-1", "1 2", "\u0669-0"])
async def test_malformed_ids_are_refused(queue: JobQueue, bad: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        await collect(queue, "job", bad)


async def test_waiting_for_an_end_returns_with_it_however_it_comes(queue: JobQueue, hand: Hand) -> None:
    finished, canceled, erased = [await hand.post() for _ in range(3)]
    waiting = [asyncio.create_task(queue.owner.ended(job_id)) for job_id in (finished, canceled, erased)]
    await run_to_the_end(queue, hand)
    assert await asyncio.wait_for(waiting[0], 20) == await queue.owner.get(finished)
    assert not waiting[1].done() and not waiting[2].done()
    await queue.owner.cancel(canceled)
    record = await asyncio.wait_for(waiting[1], 20)
    assert record is not None and record.status == "canceled"
    await queue.owner.erase(erased)
    assert await asyncio.wait_for(waiting[2], 20) is None
    record = await asyncio.wait_for(queue.owner.ended(finished), 20)
    assert record is not None and record.status == "succeeded"
    assert await asyncio.wait_for(queue.owner.ended("nobody"), 20) is None
