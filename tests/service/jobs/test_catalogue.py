"""Catalogue garments: one namespace a tenant, replaced and deleted with their blobs handed back."""

from __future__ import annotations

from service.jobs.queue import JobQueue
from service.jobs.schemas import GarmentRecord

COAT = GarmentRecord(
    sku="coat-1",
    blob="garment/a",
    content_type="image/png",
    width=512,
    height=512,
    category="coats",
    layer="open",
    created_at=1.0,
)


async def test_a_garment_is_put_read_replaced_and_deleted(queue: JobQueue) -> None:
    assert await queue.put_garment("shop", "coat-1", COAT) is None
    assert await queue.get_garment("shop", "coat-1") == COAT
    newer = COAT.model_copy(update={"blob": "garment/b"})
    assert await queue.put_garment("shop", "coat-1", newer) == COAT
    assert await queue.delete_garment("shop", "coat-1") == newer
    assert await queue.get_garment("shop", "coat-1") is None
    assert await queue.delete_garment("shop", "coat-1") is None


async def test_the_sku_asked_for_is_the_sku_kept(queue: JobQueue) -> None:
    await queue.put_garment("shop", "other", COAT)
    found = await queue.get_garment("shop", "other")
    assert found is not None and found.sku == "other"


async def test_tenants_do_not_see_each_other_s_garments(queue: JobQueue) -> None:
    await queue.put_garment("a:b", "c", COAT)
    assert await queue.get_garment("a", "b:c") is None
    assert await queue.get_garment("other", "c") is None
    assert await queue.delete_garment("other", "c") is None
    assert await queue.get_garment("a:b", "c") is not None
