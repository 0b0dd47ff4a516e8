"""Catalogue garments: one namespace a tenant, replaced and deleted with their blobs handed back."""

from __future__ import annotations

import pytest

from service.errors import UnprocessableRequest
from service.jobs import store_keys
from service.jobs.blobs import BlobStore
from service.jobs.catalogue import Catalogue, digest
from service.jobs.queue import JobQueue
from service.jobs.schemas import GarmentRecord, Limits

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


async def record(catalogue: Catalogue, tenant: str, sku: str) -> GarmentRecord | None:
    held = await catalogue.get(tenant, sku)
    return held.record if held else None


async def test_a_garment_is_put_read_replaced_and_deleted(catalogue: Catalogue) -> None:
    assert (await catalogue.put("shop", COAT))[1] is None
    assert await record(catalogue, "shop", "coat-1") == COAT
    newer = COAT.model_copy(update={"blob": "garment/b"})
    assert (await catalogue.put("shop", newer))[1] == COAT
    assert await catalogue.delete("shop", "coat-1") == newer
    assert await catalogue.get("shop", "coat-1") is None
    assert await catalogue.delete("shop", "coat-1") is None


async def test_tenants_do_not_see_each_other_s_garments(catalogue: Catalogue) -> None:
    await catalogue.put("a:b", COAT.model_copy(update={"sku": "c"}))
    assert await catalogue.get("a", "b:c") is None
    assert await catalogue.get("other", "c") is None
    assert await catalogue.delete("other", "c") is None
    assert await catalogue.get("a:b", "c") is not None


def coat(sku: str, blob: str = "garment/a") -> GarmentRecord:
    return COAT.model_copy(update={"sku": sku, "blob": blob})


async def test_a_tenant_holds_so_many_garments_and_no_more(catalogue: Catalogue) -> None:
    limits = Limits(catalogue_garments=2)
    await catalogue.put("shop", coat("a"), size=5, limits=limits)
    await catalogue.put("shop", coat("b"), size=5, limits=limits)
    with pytest.raises(UnprocessableRequest, match="2 garments") as full:
        await catalogue.put("shop", coat("c"), size=5, limits=limits)
    assert full.value.code == "catalogue-full"
    assert await catalogue.get("shop", "c") is None
    assert (await catalogue.put("shop", coat("b", "garment/b"), size=5, limits=limits))[1] == coat("b")
    await catalogue.put("other", coat("c"), size=5, limits=limits)
    await catalogue.delete("shop", "a")
    await catalogue.put("shop", coat("c"), size=5, limits=limits)


async def test_a_tenant_holds_so_many_bytes_and_no_more(queue: JobQueue, catalogue: Catalogue) -> None:
    limits = Limits(catalogue_bytes=100)
    await catalogue.put("shop", coat("a"), size=60, limits=limits)
    await catalogue.put("shop", coat("b"), size=40, limits=limits)
    for sku, size in (("c", 1), ("b", 41)):
        with pytest.raises(UnprocessableRequest) as full:
            await catalogue.put("shop", coat(sku), size=size, limits=limits)
        assert full.value.code == "catalogue-full"
    await catalogue.put("shop", coat("a"), size=10, limits=limits)
    await catalogue.put("shop", coat("c"), size=50, limits=limits)
    for sku in "abc":
        await catalogue.delete("shop", sku)
    assert await queue.store.client.exists(store_keys.HOLDINGS + "shop") == 0


async def test_a_garment_of_an_older_version_is_counted_when_it_is_put_again(
    queue: JobQueue, catalogue: Catalogue
) -> None:
    await queue.store.client.set(store_keys.GARMENT + digest("shop", "a"), coat("a").model_dump_json())
    await catalogue.put("shop", coat("a"), size=7, limits=Limits(catalogue_garments=1))
    assert await queue.store.client.hget(store_keys.HOLDINGS + "shop", "bytes") == "7"
    await catalogue.delete("shop", "a")
    assert await queue.store.client.exists(store_keys.HOLDINGS + "shop") == 0


async def over(queue: JobQueue, tenant: str, sku: str) -> None:
    """End the life of a garment now."""
    await queue.store.client.zadd(store_keys.GARMENT_ENDS, {f"{tenant}:{digest(tenant, sku)}": 1})


async def test_a_garment_that_nobody_wears_ends_with_its_picture(queue: JobQueue) -> None:
    blobs, catalogue = BlobStore.open(queue.settings), Catalogue(queue.store, ttl_s=3600)
    keys = [await blobs.put(sku.encode(), kind="garment", content_type="image/png") for sku in "ab"]
    for sku, key in zip("ab", keys, strict=True):
        await catalogue.put("a:shop", coat(sku, key), size=1)
    assert await catalogue.sweep(blobs) == 0
    await over(queue, "a:shop", "a")
    assert await catalogue.get("a:shop", "a") is None
    assert await catalogue.get("a:shop", "a", worn=True) is None
    assert await catalogue.sweep(blobs) == 1
    assert await queue.store.client.get(store_keys.GARMENT + digest("a:shop", "a")) is None
    assert sorted(path.name for path in queue.settings.data_dir.rglob("*-*")) == [keys[1].rsplit("/", 1)[1]]
    assert await queue.store.client.hgetall(store_keys.HOLDINGS + "a:shop") == {
        digest("a:shop", "b"): "1",
        "bytes": "1",
    }
    assert await catalogue.sweep(blobs) == 0


async def test_wearing_a_garment_begins_its_life_anew(queue: JobQueue) -> None:
    name = f"shop:{digest('shop', 'a')}"
    await Catalogue(queue.store, ttl_s=3600).put("shop", coat("a"))
    first = float(await queue.store.client.zscore(store_keys.GARMENT_ENDS, name))
    later = Catalogue(queue.store, ttl_s=7200)
    looked_at, worn = await later.get("shop", "a"), await later.get("shop", "a", worn=True)
    assert looked_at is not None and worn is not None and looked_at.ends_at is not None and worn.ends_at is not None
    assert looked_at.ends_at * 1000 == first and worn.ends_at - looked_at.ends_at >= 3600
    for_ever = Catalogue(queue.store)
    await for_ever.put("shop", coat("a"))
    kept = await for_ever.get("shop", "a", worn=True)
    assert kept is not None and kept.ends_at is None


async def test_a_garment_put_anew_while_its_end_is_swept_stays(queue: JobQueue) -> None:
    blobs, catalogue = BlobStore.open(queue.settings), Catalogue(queue.store, ttl_s=3600)
    old, new = [await blobs.put(data, kind="garment", content_type="image/png") for data in (b"old", b"new")]
    await catalogue.put("shop", coat("a", old), size=1)
    await over(queue, "shop", "a")
    due = await queue.store.script("garments_due", 10)
    await catalogue.put("shop", coat("a", new), size=1)
    await catalogue._change(due[0][0], due[0][1], "", only=old)
    assert (await record(catalogue, "shop", "a")) == coat("a", new)
