"""The use case: from a requested try-on to a job, and what may be asked of a job afterwards.

Admission comes first (one store call), then decoding and writing the instruction side by side, then the
blobs, then one store call that turns the reservation into a job. Whatever fails in between releases the
reservation, so that nothing is counted that does not exist.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field

from engine_build.instruction import GarmentPhrase
from service.errors import (
    Conflict,
    Damaged,
    Gone,
    ServiceError,
    Unauthorized,
    UnprocessableRequest,
)
from service.gateway.http.request_context import timed
from service.gateway.shapes import views
from service.gateway.shapes.request import RequestedTryOn
from service.gateway.work.api_keys import Caller
from service.gateway.work.fleet import Fleet
from service.gateway.work.garments import Garments
from service.gateway.work.refusals import about, erased, first_of, gone, unknown_job
from service.gateway.work.rewriter import Instruction, Rewriter
from service.gateway.work.webhook_addresses import WebhookAddresses
from service.jobs.blobs import BlobStore, blobs_of
from service.jobs.queue import JobQueue
from service.jobs.schemas import INLINE, TERMINAL, Existing, GarmentRef, JobRecord, JobSpec, PictureWarning
from service.jobs.submission import UnusedReservations
from service.jobs.words import JobKey, Words, sealed
from service.pictures.pool import ImagePool
from service.pictures.turns import Asker
from service.retry_after import SOON
from service.settings import Settings


@dataclass(frozen=True)
class Asked:
    """What the headers of a request say; `timings` takes the seconds of each stage."""

    caller: Caller
    idempotency_key: str | None
    deadline_s: float
    request_id: str
    traceparent: str | None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Submitted:
    """The job of a request; `replayed` when it was there already under the same Idempotency-Key."""

    job_id: str
    replayed: bool


class TryOns:
    """Everything a caller can do with try-ons. Set `stopping` at a shutdown: nobody is kept waiting then."""

    def __init__(
        self,
        settings: Settings,
        queue: JobQueue,
        blobs: BlobStore,
        *,
        pool: ImagePool,
        rewriter: Rewriter,
        garments: Garments,
        fleet: Fleet,
        webhooks: WebhookAddresses,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._blobs = blobs
        self.words = Words(blobs)
        self._pool = pool
        self._rewriter = rewriter
        self._garments = garments
        self._fleet = fleet
        self._webhooks = webhooks
        self.stopping = asyncio.Event()
        self._unused = UnusedReservations(queue.submission, self.stopping)

    async def submit(self, requested: RequestedTryOn, asked: Asked) -> Submitted:
        """Turn a request into a job, or find the one it already is.

        Raises QueueFull, TooManyRequests, IdempotencyMismatch, StoreUnavailable, UnprocessableRequest and the
        errors of pictures.
        """
        options = requested.options
        size = options.pixels()
        with timed(asked.timings, "check"):
            await self._fleet.check(size, options.steps)
            digest = await asyncio.to_thread(requested.digest) if asked.idempotency_key else ""
        if options.priority == "high" and not asked.caller.high_priority:
            raise UnprocessableRequest(
                "priority: this key may not use high; send normal or low, or ask for a key that may.",
                code="priority-not-allowed",
                pointer="priority",
            )
        self._webhooks.check(options.webhook_url)
        with timed(asked.timings, "reserve"):
            reserved = await self._queue.submission.reserve(
                tenant=asked.caller.tenant,
                idempotency_key=asked.idempotency_key,
                body_digest=digest,
                limits=asked.caller.limits,
            )
        if isinstance(reserved, Existing):
            return Submitted(reserved.job_id, replayed=True)
        created = time.time()
        try:
            self._blobs.check_room("input")
            with timed(asked.timings, "prepare"):
                person, garments, instruction, key, warnings = await self._prepare(requested, asked)
            spec = JobSpec(
                id=reserved.id,
                tenant=asked.caller.tenant,
                person=person,
                garments=garments,
                prompt=options.prompt,
                instruction=instruction.text,
                instruction_by=instruction.by,
                instruction_fallback=instruction.fallback_reason,
                size=size,
                seed=secrets.randbelow(2**32) if options.seed is None else options.seed,
                steps=options.steps,
                output_format=options.output_format,
                quality=options.quality,
                priority=options.priority,
                metadata=options.metadata,
                webhook_url=options.webhook_url,
                webhook_output=self._webhook_output(reserved.id, requested, created + asked.deadline_s),
                created_at=created,
                deadline_at=created + asked.deadline_s,
                tokens=await self._fleet.tokens(size, len(garments)),
                request_id=asked.request_id,
                traceparent=asked.traceparent,
                warnings=warnings,
            )
            with timed(asked.timings, "submit"):
                await self._queue.submission.submit(reserved, sealed(spec, key))
        except BaseException:
            await asyncio.shield(self._unused.release(reserved))
            raise
        return Submitted(reserved.id, replayed=False)

    async def _prepare(
        self, requested: RequestedTryOn, asked: Asked
    ) -> tuple[str, tuple[GarmentRef, ...], Instruction, JobKey, tuple[PictureWarning, ...]]:
        """Decode and store every picture, and the key of the words, while the instruction is written.

        Also what was wrong with the pictures.
        """
        records = await asyncio.gather(
            *(
                self._garments.wanted(asked.caller.tenant, garment.sku, requested.garment_name(index))
                for index, garment in enumerate(requested.garments)
                if garment.sku is not None
            )
        )
        known = dict(zip([g.sku for g in requested.garments if g.sku is not None], records, strict=True))
        phrases = []
        warned: dict[str, str] = {}
        for index, garment in enumerate(requested.garments):
            record = known.get(garment.sku) if garment.sku is not None else None
            category, layer = garment.category, garment.layer
            if record is not None:
                category = record.category if category == "auto" else category
                layer = layer or record.layer
                if record.warning is not None:
                    warned[f"garments.{index}"] = record.warning
            phrases.append(GarmentPhrase(category=category, layer=layer, description=None))

        asker = Asker(asked.caller.tenant, asked.caller.address)
        uploaded = [garment.data for garment in requested.garments if garment.data is not None]
        await self._pool.check_together([requested.person, *uploaded])

        async def stored(data: bytes, stage: str, pointer: str) -> str:
            with timed(asked.timings, f"decode-{stage}"), about(pointer):
                photo = await self._pool.decode(data, pointer=pointer, asker=asker)
            if photo.warning is not None:
                warned[stage] = photo.warning
            with timed(asked.timings, f"store-{stage}"):
                return await self._blobs.put(photo.data, kind="input", content_type=photo.content_type)

        try:
            async with asyncio.TaskGroup() as group:
                person = group.create_task(stored(requested.person, "person", requested.person_name))
                uploads = {
                    index: group.create_task(stored(garment.data, f"garments.{index}", requested.garment_name(index)))
                    for index, garment in enumerate(requested.garments)
                    if garment.data is not None
                }
                written = group.create_task(self._rewriter.write(phrases, requested.options.prompt))
                key = group.create_task(self.words.new_key())
                group.create_task(self._webhooks.resolve(requested.options.webhook_url))
        except* ServiceError as errors:
            raise first_of(errors) from errors
        refs = []
        for index, (garment, phrase) in enumerate(zip(requested.garments, phrases, strict=True)):
            blob = uploads[index].result() if index in uploads else known[garment.sku or ""].blob
            refs.append(GarmentRef(blob=blob, category=phrase.category, layer=phrase.layer, sku=garment.sku))
        in_order = sorted(warned, key=lambda name: (name != "person", name))
        warnings = tuple(PictureWarning(pointer=name, detail=warned[name]) for name in in_order)
        return person.result(), tuple(refs), written.result(), key.result(), warnings

    def _webhook_output(self, job_id: str, requested: RequestedTryOn, deadline_at: float) -> str | None:
        """What a receiver of FASHN's shape will be given, signed now, because workers sign nothing; None for ours."""
        receiver = requested.fashn_receiver
        if receiver is None or not requested.options.webhook_url:
            return None
        if receiver.inline:
            return INLINE
        return receiver.base + self._signed(job_id, int(deadline_at) + self._settings.result_ttl_s)

    async def get(self, caller: Caller, job_id: str) -> JobRecord:
        """The record of a caller's own job, with its words. Raises NotFound (also for another's), Gone."""
        return await self._opened(await self._own(caller, job_id))

    async def _own(self, caller: Caller, job_id: str) -> JobRecord:
        """The record of a caller's own job as the store has it. Raises NotFound, Gone."""
        record = await self._queue.owner.get(job_id)
        if record is None and await self._queue.owner.existed(job_id, caller.tenant):
            raise erased()
        if record is None or record.spec.tenant != caller.tenant:
            raise unknown_job()
        return record

    async def read(self, job_id: str) -> JobRecord | None:
        """The record of a job whose caller was checked before, or None once it is gone."""
        record = await self._queue.owner.get(job_id)
        return None if record is None else await self._opened(record)

    async def _opened(self, record: JobRecord) -> JobRecord:
        """The record with its words. Raises Gone, StoreUnavailable."""
        try:
            return await self.words.open_record(record)
        except Damaged:
            raise
        except Gone:
            raise erased() from None

    async def wait(self, caller: Caller, job_id: str, seconds: float) -> JobRecord:
        """The record once it is terminal, or as it is after `seconds` or at a shutdown; leaving leaves it alone."""
        record = await self._own(caller, job_id)
        if record.status in TERMINAL or seconds <= 0:
            return await self._opened(record)
        ended = asyncio.create_task(self._queue.owner.ended(job_id))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((ended, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            last = ended.result() if ended.done() and ended.exception() is None else None
        finally:
            ended.cancel()
            stopping.cancel()
            await asyncio.gather(ended, stopping, return_exceptions=True)
        return await self._opened(last) if last else await self.get(caller, job_id)

    async def cancel(self, caller: Caller, job_id: str) -> JobRecord:
        """Ask for the end of a job; one that has ended stays as it is, whether asked once or twice."""
        await self._own(caller, job_id)
        return await self._opened(await self._queue.owner.cancel(job_id))

    async def erase(self, caller: Caller, job_id: str) -> None:
        """Cancel a job where it runs and erase the key of its words, its pictures and its record. Raises NotFound.

        The blobs go first: where they cannot be erased the record stays, and the caller may ask again.
        """
        record = await self._own(caller, job_id)
        await self._blobs.delete(*blobs_of(record))
        self.words.forget(record)
        last = await self._queue.owner.erase(job_id)
        if last is not None:
            await self._blobs.delete(*(set(blobs_of(last)) - set(blobs_of(record))))

    def image_address(self, record: JobRecord) -> tuple[str | None, float | None]:
        """The signed address of a finished picture and when it ends, or (None, None)."""
        if record.result is None or record.finished_at is None:
            return None, None
        expires = int(record.finished_at) + self._settings.result_ttl_s
        return self._signed(record.spec.id, expires), float(expires)

    def _signed(self, job_id: str, expires: int) -> str:
        return f"/v1/try-ons/{job_id}/image?token={self._blobs.sign(job_id, expires)}"

    def view(self, record: JobRecord) -> views.TryOnView:
        """The record as a caller sees it."""
        url, expires = self.image_address(record)
        return views.try_on(record, image_url=url, expires_at=expires)

    async def signed_record(self, job_id: str, token: str) -> JobRecord:
        """The record behind a signed address. Raises Unauthorized for a wrong token, Gone after its end."""
        if not self._blobs.verify(job_id, token):
            ended = token.partition(".")[0]
            if ended.isascii() and ended.isdigit() and int(ended[:12]) <= time.time():
                raise gone()
            raise Unauthorized(
                "The token of this address does not fit; read the try-on again for a fresh address.",
                code="invalid-token",
            )
        record = await self._queue.owner.get(job_id)
        if record is None:
            raise gone()
        return record

    async def picture(self, record: JobRecord) -> tuple[bytes, str]:
        """The finished picture and its content type. Raises Conflict before it exists, Gone after its end."""
        if record.status not in TERMINAL:
            raise Conflict(
                "The picture is not finished; wait for the status succeeded.",
                code="not-finished",
                retry_after=SOON,
            )
        if record.result is None:
            raise Conflict(f"The try-on ended as {record.status}; there is no picture.", code="no-picture")
        try:
            return await self._blobs.get(record.result.blob), record.result.content_type
        except Gone:
            raise gone() from None
