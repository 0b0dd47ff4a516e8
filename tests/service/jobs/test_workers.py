"""What workers are told of erasures: which pictures, at once, once, and after an outage too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from queue_hand import Hand

from service.errors import StoreUnavailable
from service.jobs import store_keys, workers
from service.jobs.catalogue import Catalogue
from service.jobs.queue import JobQueue
from service.jobs.schemas import Erased, GarmentRecord, GarmentRef

PERSON, SHIRT, COAT = ("0a" * 32, "1b" * 32, "2c" * 32)


def blob(kind: str, content: str) -> str:
    return f"{kind}/2026112201/{content}-0123456789abcdef"


async def worn(hand: Hand, **said: Any) -> str:
    garments = (GarmentRef(blob=blob("input", SHIRT)), GarmentRef(blob=blob("garment", COAT), sku="COAT"))
    return await hand.post(person=blob("input", PERSON), garments=garments, **said)


async def heard(reading: workers.WorkerNews) -> Any:
    async with asyncio.timeout(20):
        return await anext(reading.follow())


async def following(queue: JobQueue) -> workers.WorkerNews:
    """A reading that has begun."""
    reading = queue.workers.news()
    begun = asyncio.create_task(anext(reading.follow()))
    async with asyncio.timeout(20):
        while len(reading._last) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    begun.cancel()
    await asyncio.wait({begun})
    return reading


async def test_an_erased_job_names_its_own_pictures_and_no_catalogue_garment(queue: JobQueue, hand: Hand) -> None:
    reading = await following(queue)
    plain, wordy = await worn(hand), await worn(hand, prompt="my scar hidden")
    await queue.owner.erase(plain)
    await queue.owner.erase(wordy)
    own = frozenset({PERSON, SHIRT})
    assert await heard(reading) == Erased(job_id=plain, content=own, words=False)
    assert await heard(reading) == Erased(job_id=wordy, content=own, words=True)


async def test_a_garment_that_was_replaced_or_deleted_is_told(queue: JobQueue) -> None:
    catalogue, reading = Catalogue(queue.store), await following(queue)
    record = GarmentRecord(
        sku="c", blob=blob("garment", COAT), content_type="image/png", width=64, height=64, created_at=1.0
    )
    await catalogue.put("shop", record)
    await catalogue.put("shop", record.model_copy(update={"blob": blob("garment", SHIRT)}))
    await catalogue.delete("shop", "c")
    assert await catalogue.delete("shop", "c") is None
    assert [(await heard(reading)).content for _ in range(2)] == [{COAT}, {SHIRT}]


async def test_what_was_erased_during_an_outage_is_heard_after_it(queue: JobQueue, hand: Hand) -> None:
    reading = await following(queue)
    job_id = await worn(hand)
    waiting = asyncio.create_task(anext(reading.follow()))
    await asyncio.sleep(0.1)
    await reading._store.blocking.connection_pool.disconnect()
    with pytest.raises(StoreUnavailable):
        await waiting
    await queue.owner.erase(job_id)
    assert (await heard(reading)).job_id == job_id


async def test_who_was_away_longer_than_news_are_kept_forgets_everything(
    queue: JobQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = await following(queue)
    monkeypatch.setattr(workers, "KEPT_S", 0.0)
    await asyncio.sleep(0.01)
    assert await heard(reading) == Erased(content=None, words=True)


async def test_the_store_keeps_the_news_for_minutes_only(queue: JobQueue, hand: Hand) -> None:
    client = queue.store.client
    await client.xadd(store_keys.ERASED, {"job": "old", "content": PERSON, "words": "0"}, id="1-0")
    job_id = await worn(hand)
    await queue.owner.erase(job_id)
    assert [fields["job"] for _, fields in await client.xrange(store_keys.ERASED)] == [job_id]
    assert 0 < await client.pttl(store_keys.ERASED) <= 600_000
