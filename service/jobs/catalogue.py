"""Catalogue garments: uploaded once, referred to by sku, one namespace a tenant.

A tenant may hold so many garments and so many bytes of them. A garment lives `garment_ttl_s` since it was put or worn
last; `sweep` erases those whose time is over. Blobs lie in the picture store under the kind `garment`.
"""

from __future__ import annotations

import hashlib

from service.errors import UnprocessableRequest
from service.jobs.blobs import BlobStore
from service.jobs.schemas import GarmentRecord, HeldGarment, Limits
from service.jobs.store import Store
from service.settings import MIB

SWEEP_PAGE = 200
UNBOUNDED = Limits()


class Catalogue:
    """The garments of all tenants; `ttl_s` is how long one is kept that nobody wears, 0 for ever."""

    def __init__(self, store: Store, ttl_s: int = 0) -> None:
        self._store = store
        self._ttl_ms = ttl_s * 1000

    async def put(
        self, tenant: str, garment: GarmentRecord, *, size: int = 0, limits: Limits = UNBOUNDED
    ) -> tuple[HeldGarment, GarmentRecord | None]:
        """Write a garment whose picture has `size` bytes; returns it as it is held now, and the one it replaces, whose
        blob is now the caller's to delete.

        Raises UnprocessableRequest (catalogue-full) when the tenant holds as much as `limits` allow.
        """
        bounds = (limits.catalogue_garments, limits.catalogue_bytes)
        answer = await self._change(tenant, digest(tenant, garment.sku), garment.model_dump_json(), size, bounds)
        if answer[0] != "done":
            raise _full(answer[0], limits)
        return HeldGarment(garment, _seconds(answer[2])), _record(answer[1])

    async def get(self, tenant: str, sku: str, *, worn: bool = False) -> HeldGarment | None:
        """The garment of this sku, or None; to be `worn` it begins its life anew."""
        ttl_ms = self._ttl_ms if worn else 0
        found = await self._store.script("garment_read", tenant, digest(tenant, sku), ttl_ms)
        if not found:
            return None
        return HeldGarment(GarmentRecord.model_validate_json(found[0]), _seconds(found[1]))

    async def delete(self, tenant: str, sku: str) -> GarmentRecord | None:
        """Remove a garment; returns what was there, whose blob is now the caller's to delete."""
        return _record((await self._change(tenant, digest(tenant, sku), ""))[1])

    async def sweep(self, blobs: BlobStore) -> int:
        """Erase the garments whose life is over, pictures first, so that none is left without a record.

        Returns how many. Raises StoreUnavailable.
        """
        erased = 0
        while due := await self._store.script("garments_due", SWEEP_PAGE):
            for tenant, name, text in due:
                blob = GarmentRecord.model_validate_json(text).blob
                await blobs.delete(blob)
                await self._change(tenant, name, "", only=blob)
            erased += len(due)
        return erased

    async def _change(
        self, tenant: str, name: str, text: str, size: int = 0, bounds: tuple[int, int] = (0, 0), *, only: str = ""
    ) -> list[str]:
        arguments = (tenant, name, text, size, *bounds, self._ttl_ms, only)
        answer: list[str] = await self._store.script("garment", *arguments, repeat=False)
        return answer


def _record(text: str) -> GarmentRecord | None:
    return GarmentRecord.model_validate_json(text) if text else None


def _seconds(milliseconds: str) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None


def digest(tenant: str, sku: str) -> str:
    """The name under which the store knows a garment."""
    return hashlib.sha256(f"{tenant}\x00{sku}".encode()).hexdigest()


def _full(which: str, limits: Limits) -> UnprocessableRequest:
    bound = f"{limits.catalogue_garments} garments" if which == "garments" else f"{limits.catalogue_bytes // MIB} MiB"
    return UnprocessableRequest(
        f"The catalogue of this key is full: it may hold {bound}. Delete garments that nobody wears any more.",
        code="catalogue-full",
    )
