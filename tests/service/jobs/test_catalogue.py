"""Catalogue garments: one namespace a tenant, replaced and deleted with their blobs handed back."""

from __future__ import annotations

import pytest

from service.jobs.catalogue import Catalogue
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


@pytest.fixture
def catalogue(queue: JobQueue) -> Catalogue:
    return Catalogue(queue.store)


async def test_a_garment_is_put_read_replaced_and_deleted(catalogue: Catalogue) -> None:
    assert await catalogue.put("shop", COAT) is None
    assert await catalogue.get("shop", "coat-1") == COAT
    newer = COAT.model_copy(update={"blob": "garment/b"})
    assert await catalogue.put("shop", newer) == COAT
    assert await catalogue.delete("shop", "coat-1") == newer
    assert await catalogue.get("shop", "coat-1") is None
    assert await catalogue.delete("shop", "coat-1") is None


async def test_tenants_do_not_see_each_other_s_garments(catalogue: Catalogue) -> None:
    await catalogue.put("a:b", COAT.model_copy(update={"sku": "c"}))
    assert await catalogue.get("a", "b:c") is None
    assert await catalogue.get("other", "c") is None
    assert await catalogue.delete("other", "c") is None
    assert await catalogue.get("a:b", "c") is not None
