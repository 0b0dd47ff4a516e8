"""Garments uploaded once and worn by many: a try-on refers to them by sku and uploads only the person."""

from __future__ import annotations

import time

from service.errors import NotFound, UnprocessableRequest
from service.gateway.shapes import views
from service.jobs.blobs import BlobStore
from service.jobs.catalogue import Catalogue
from service.jobs.schemas import Category, GarmentRecord
from service.pictures.pool import ImagePool


class Garments:
    """What a caller can do with the catalogue of its own tenant."""

    def __init__(self, catalogue: Catalogue, blobs: BlobStore, pool: ImagePool) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._pool = pool

    async def put(
        self, tenant: str, sku: str, data: bytes, *, category: Category, layer: str | None
    ) -> tuple[views.CatalogueView, bool]:
        """Store or replace a garment; the flag says whether it is new.

        Raises what ImagePool.decode raises, and StoreUnavailable.
        """
        photo = await self._pool.decode(data, pointer="image")
        record = GarmentRecord(
            sku=sku,
            blob=await self._blobs.put(photo.data, kind="garment", content_type=photo.content_type),
            content_type=photo.content_type,
            width=photo.width,
            height=photo.height,
            category=category,
            layer=layer,
            created_at=time.time(),
        )
        before = await self._catalogue.put(tenant, record)
        if before is not None:
            await self._blobs.delete(before.blob)
        return view(record), before is None

    async def get(self, tenant: str, sku: str) -> GarmentRecord:
        """Raises NotFound."""
        record = await self._catalogue.get(tenant, sku)
        if record is None:
            raise _unknown()
        return record

    async def wanted(self, tenant: str, sku: str, pointer: str) -> GarmentRecord:
        """The garment a try-on refers to. Raises UnprocessableRequest when it is not in the catalogue."""
        record = await self._catalogue.get(tenant, sku)
        if record is None:
            raise UnprocessableRequest(
                f"{pointer}: there is no garment {sku!r}; put it with PUT /v1/garments/{sku} first.",
                code="unknown-sku",
                pointer=pointer,
            )
        return record

    async def delete(self, tenant: str, sku: str) -> None:
        """Erase a garment and its picture. Raises NotFound."""
        record = await self._catalogue.delete(tenant, sku)
        if record is None:
            raise _unknown()
        await self._blobs.delete(record.blob)


def _unknown() -> NotFound:
    return NotFound("There is no garment with this sku; put it with PUT /v1/garments/{sku}.", code="unknown-sku")


def view(record: GarmentRecord) -> views.CatalogueView:
    return views.CatalogueView(
        sku=record.sku,
        category=record.category,
        layer=record.layer,
        width=record.width,
        height=record.height,
        created_at=views.timestamp(record.created_at),
    )
