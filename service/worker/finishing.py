"""How a claimed job ends: one fenced write and its metrics, patient with a store that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine_build.engine import Outcome
from engine_build.errors import MemoryShortage, RequestError
from service.errors import StoreUnavailable
from service.jobs.claims import Finish
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, JobError, JobResult
from service.metrics import Metrics
from service.pictures.images import CONTENT_TYPES
from service.telemetry import span
from service.worker.leases import Leases, Stop
from service.worker.pictures import Photos
from service.worker.progress import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_PATIENCE_S = 60.0

NOT_STORED = JobError(code="store-unavailable", message="The picture store did not answer. Try again.", retryable=True)
ENGINE_FAILED = JobError(code="engine-failed", message="The engine failed on this request. Try again.", retryable=True)
OUT_OF_MEMORY = JobError(
    code="out-of-memory", message="This picture needs more memory than the engine's device has. Ask for a smaller one."
)
CANCELED = JobError(code="canceled", message="The job was canceled.")
EXPIRED = JobError(
    code="deadline-exceeded", message="The job did not finish before its deadline. Try again.", retryable=True
)


class Finisher:
    """Writes ends. Each method takes a claim this worker holds and drops it from the leases when done."""

    def __init__(
        self,
        queue: JobQueue,
        leases: Leases,
        photos: Photos,
        progress: Progress,
        metrics: Metrics,
        model: str,
    ) -> None:
        self._queue = queue
        self._leases = leases
        self._photos = photos
        self._progress = progress
        self._metrics = metrics
        self._model = model

    async def settle(self, claim: Claim, outcome: Outcome, before: dict[str, float]) -> None:
        """Write the end of a job the engine returned; `before` are the seconds of the stages before it.

        What cannot be encoded or stored counts as a failed attempt: the job never stays with this worker.
        """
        try:
            await self._settle(claim, outcome, before)
        except Exception as error:
            await self.give_up(claim, error)

    async def _settle(self, claim: Claim, outcome: Outcome, before: dict[str, float]) -> None:
        with span("try_on.finish", parent=claim.spec.traceparent, attributes={"status": outcome.status}):
            for (cache, result), count in outcome.cache.items():
                self._metrics.cache_events.labels(cache, result).inc(count)
            reason = self._leases.stop_reason(claim)
            if reason is not None:
                await self.stop(claim, reason)
            elif outcome.status == "succeeded" and outcome.image is not None:
                await self._succeed(claim, outcome, before)
            elif isinstance(outcome.error, RequestError):
                error = JobError(code="unprocessable-request", message=str(outcome.error))
                await self.end(claim, "failed", error=error)
            elif isinstance(outcome.error, MemoryShortage):
                log.error("out of memory", extra={"job_id": claim.spec.id})
                await self.end(claim, "failed", error=OUT_OF_MEMORY)
            else:
                await self.fail_attempt(claim, outcome.error)

    async def _succeed(self, claim: Claim, outcome: Outcome, before: dict[str, float]) -> None:
        spec, image = claim.spec, outcome.image
        if image is None:
            raise ValueError("a succeeded outcome carries its image")
        stages = before | dict(outcome.stages)
        started = time.perf_counter()
        data = await self._photos.encode(image, spec)
        encoded = time.perf_counter()
        blob = await self._stored(claim, data)
        stages |= {"encode": encoded - started, "store": time.perf_counter() - encoded}
        result = JobResult(
            blob=blob,
            content_type=CONTENT_TYPES[spec.output_format],
            width=image.width,
            height=image.height,
            model=self._model,
            nfe=outcome.nfe,
            stages={name: round(seconds, 6) for name, seconds in stages.items()},
            approximation=outcome.approximation,
        )
        if await self.end(claim, "succeeded", result=result):
            for stage, seconds in stages.items():
                self._metrics.stage_latency.labels(stage).observe(seconds)
        else:
            await self._photos.discard(blob)

    async def stop(self, claim: Claim, reason: Stop) -> None:
        """End a job that must not go on."""
        if reason == "canceled":
            await self.end(claim, "canceled", error=CANCELED)
        elif reason == "expired":
            await self.end(claim, "expired", error=EXPIRED)
        elif reason == "drain":
            await self.hand_back(claim)
        else:
            self._leases.drop(claim)

    async def end(
        self, claim: Claim, status: Finish, *, result: JobResult | None = None, error: JobError | None = None
    ) -> bool:
        """Write a terminal status; False when the job was canceled first or another worker owns it."""
        try:
            await self._progress.settle(claim)
            written = await _patiently(
                lambda: self._queue.claims.finish(claim, status=status, result=result, error=error), lambda: True
            )
        finally:
            self._leases.drop(claim)
        if not written:
            log.warning("end discarded: the job was canceled or is not ours", extra={"job_id": claim.spec.id})
            return False
        log.info("job %s", status, extra={"job_id": claim.spec.id, "attempt": claim.attempt})
        return True

    async def give_up(self, claim: Claim, cause: Exception) -> None:
        """An attempt came to nothing: because the job must not go on, or by a failure to count."""
        reason = self._leases.stop_reason(claim)
        if reason is None:
            await self.fail_attempt(claim, cause)
        else:
            await self.stop(claim, reason)

    async def fail_attempt(self, claim: Claim, cause: BaseException | None) -> None:
        """Count a failed attempt; the queue decides between another one and the dead letter."""
        log.error("attempt failed: %r", cause, exc_info=cause, extra={"job_id": claim.spec.id})
        error = NOT_STORED if isinstance(cause, StoreUnavailable) else ENGINE_FAILED
        try:
            await self._progress.settle(claim)
            await _patiently(lambda: self._queue.claims.fail_attempt(claim, error), lambda: True)
        finally:
            self._leases.drop(claim)

    async def hand_back(self, claim: Claim) -> None:
        try:
            await self._progress.settle(claim)
            await _patiently(lambda: self._queue.claims.hand_back(claim), lambda: True)
        finally:
            self._leases.drop(claim)

    async def _stored(self, claim: Claim, data: bytes) -> str:
        """Write a result, for a minute where the picture store does not take it and the job may go on."""
        return await _patiently(
            lambda: self._photos.store(data, claim.spec), lambda: self._leases.stop_reason(claim) is None
        )


async def _patiently(call: Callable[[], Awaitable[T]], worth_it: Callable[[], bool]) -> T:
    """Repeat a call for a minute while a store is away; the fence makes a late write harmless."""
    give_up_at = time.monotonic() + STORE_PATIENCE_S
    while True:
        try:
            return await call()
        except StoreUnavailable:
            if time.monotonic() >= give_up_at or not worth_it():
                raise
            await asyncio.sleep(0.25)
