"""Garments uploaded once and worn by many: a try-on refers to them by sku and uploads only the person."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from service.errors import NotFound, StoreUnavailable, UnprocessableRequest
from service.gateway.shapes import views
from service.gateway.work.api_keys import Caller
from service.jobs.blobs import BlobStore
from service.jobs.catalogue import Catalogue
from service.jobs.schemas import Category, GarmentRecord, HeldGarment, Reserved
from service.jobs.submission import Submission
from service.pictures.pool import ImagePool
from service.pictures.turns import Asker


class Garments:
    """What a caller can do with the catalogue of its own tenant."""

    def __init__(self, catalogue: Catalogue, blobs: BlobStore, pool: ImagePool, submission: Submission) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._pool = pool
        self._submission = submission

    async def put(
        self, caller: Caller, sku: str, data: bytes, *, category: Category, layer: str | None
    ) -> tuple[views.CatalogueView, bool]:
        """Store or replace a garment; the flag says whether it is new.

        An upload is admitted like a try-on, under the same rate, quota and concurrency. Raises TooManyRequests, what
        ImagePool.decode raises, UnprocessableRequest (catalogue-full) and StoreUnavailable.
        """
        self._blobs.check_room("garment")
        reserved = await self._submission.reserve_upload(caller.tenant, caller.limits)
        spent = False
        try:
            held, before = await self._put(caller, sku, data, category=category, layer=layer)
            spent = True
        finally:
            await asyncio.shield(self._settle(reserved, spent))
        return view(held), before is None

    async def _put(
        self, caller: Caller, sku: str, data: bytes, *, category: Category, layer: str | None
    ) -> tuple[HeldGarment, GarmentRecord | None]:
        photo = await self._pool.decode(data, pointer="image", asker=Asker(caller.tenant, caller.address))
        record = GarmentRecord(
            sku=sku,
            blob=await self._blobs.put(photo.data, kind="garment", content_type=photo.content_type),
            content_type=photo.content_type,
            width=photo.width,
            height=photo.height,
            category=category,
            layer=layer,
            created_at=time.time(),
            warning=photo.warning,
        )
        try:
            held, before = await self._catalogue.put(caller.tenant, record, size=len(photo.data), limits=caller.limits)
        except UnprocessableRequest:
            await self._blobs.delete(record.blob)
            raise
        if before is not None:
            await self._blobs.delete(before.blob)
        return held, before

    async def _settle(self, reserved: Reserved, spent: bool) -> None:
        """Give the room back; while the store is away it is given back when the reservation runs out."""
        with suppress(StoreUnavailable):
            await self._submission.release(reserved, spent=spent)

    async def get(self, tenant: str, sku: str) -> HeldGarment:
        """Raises NotFound."""
        held = await self._catalogue.get(tenant, sku)
        if held is None:
            raise _unknown()
        return held

    async def wanted(self, tenant: str, sku: str, pointer: str) -> GarmentRecord:
        """The garment a try-on refers to, whose life begins anew. Raises UnprocessableRequest when there is none."""
        held = await self._catalogue.get(tenant, sku, worn=True)
        if held is None:
            raise UnprocessableRequest(
                f"{pointer}: there is no garment {sku!r}; put it with PUT /v1/garments/{sku} first.",
                code="unknown-sku",
                pointer=pointer,
            )
        return held.record

    async def delete(self, tenant: str, sku: str) -> None:
        """Erase a garment and its picture. Raises NotFound."""
        record = await self._catalogue.delete(tenant, sku)
        if record is None:
            raise _unknown()
        await self._blobs.delete(record.blob)


def _unknown() -> NotFound:
    return NotFound("There is no garment with this sku; put it with PUT /v1/garments/{sku}.", code="unknown-sku")


def view(held: HeldGarment) -> views.CatalogueView:
    record = held.record
    return views.CatalogueView(
        sku=record.sku,
        category=record.category,
        layer=record.layer,
        width=record.width,
        height=record.height,
        created_at=views.timestamp(record.created_at),
        warnings=[] if record.warning is None else [views.warning("image", record.warning)],
        expires_at=None if held.ends_at is None else views.timestamp(held.ends_at),
    )
