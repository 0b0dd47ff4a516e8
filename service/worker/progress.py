"""Progress of running jobs on its way to the store: small previews, the newest step of each, no backlog.

The engine's thread hands over an event and goes on at once. A slow store makes steps be skipped, not queued:
what a client sees is always the latest step that could be told.
"""

from __future__ import annotations

import asyncio
import logging

from engine_build.engine import StepEvent
from service.errors import ServiceError
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim
from service.worker.pictures import Photos

log = logging.getLogger(__name__)


class Progress:
    """Belongs to the event loop; `note` is called there for every finished step."""

    def __init__(self, queue: JobQueue, photos: Photos) -> None:
        self._queue = queue
        self._photos = photos
        self._latest: dict[str, tuple[Claim, StepEvent]] = {}
        self._wake = asyncio.Event()
        self._sending: str | None = None
        self._sent = asyncio.Event()

    def note(self, claim: Claim, event: StepEvent) -> None:
        self._latest[claim.spec.id] = (claim, event)
        self._wake.set()

    async def settle(self, claim: Claim) -> None:
        """Send what is pending for a job before its end is written, and let nothing follow."""
        job_id = claim.spec.id
        while self._sending == job_id or job_id in self._latest:
            self._sent.clear()
            self._wake.set()
            await self._sent.wait()

    async def send_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._latest:
                job_id, (claim, event) = next(iter(self._latest.items()))
                del self._latest[job_id]
                self._sending = job_id
                try:
                    await self._send(claim, event)
                finally:
                    self._sending = None
                    self._sent.set()

    async def _send(self, claim: Claim, event: StepEvent) -> None:
        stage = "denoise" if event.step < event.steps else "vae_decode"
        try:
            picture = event.preview
            preview = None if picture is None else await self._photos.preview(picture)
            await self._queue.claims.progress(claim, stage=stage, step=event.step, steps=event.steps, preview=preview)
        except ServiceError as error:
            log.info("progress not told: %s", error.code, extra={"job_id": claim.spec.id})
