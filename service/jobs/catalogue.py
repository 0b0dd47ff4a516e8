"""Catalogue garments: uploaded once, referred to by sku, one namespace a tenant."""

from __future__ import annotations

import hashlib

from service.jobs import store_keys
from service.jobs.schemas import GarmentRecord
from service.jobs.store import Store


class Catalogue:
    """The garments of all tenants. Blobs lie in the object store under the kind `garment`, without a TTL."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, tenant: str, garment: GarmentRecord) -> GarmentRecord | None:
        """Write a garment; returns the one it replaces, whose blob is now the caller's to delete."""
        return await self._change(tenant, garment.sku, garment.model_dump_json())

    async def get(self, tenant: str, sku: str) -> GarmentRecord | None:
        """The garment of this sku, or None."""
        text = await self._store.call(lambda: self._store.client.get(_key(tenant, sku)))
        return GarmentRecord.model_validate_json(text) if text else None

    async def delete(self, tenant: str, sku: str) -> GarmentRecord | None:
        """Remove a garment; returns what was there, whose blob is now the caller's to delete."""
        return await self._change(tenant, sku, "")

    async def _change(self, tenant: str, sku: str, text: str) -> GarmentRecord | None:
        before = await self._store.script("garment", _key(tenant, sku), text, repeat=False)
        return GarmentRecord.model_validate_json(before) if before else None


def _key(tenant: str, sku: str) -> str:
    digest = hashlib.sha256(f"{tenant}\x00{sku}".encode()).hexdigest()
    return store_keys.GARMENT + digest
