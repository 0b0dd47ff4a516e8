"""The way in: one atomic decision before any work, then a reservation that becomes a job or is given back.

A reservation that nobody gives back takes room and holds its Idempotency-Key until it runs out, a minute later: after
an outage that met many requests a queue with nothing in it would refuse as full. So unused ones are given back although
the store was away, those too that were asked for and whose answer never came.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.errors import Conflict, IdempotencyMismatch, QueueFull, ServiceError, StoreUnavailable, TooManyRequests
from service.jobs import store_keys
from service.jobs.schemas import Existing, JobSpec, Limits, Reserved
from service.jobs.store import Store
from service.metrics import Metrics
from service.retry_after import SOON
from service.settings import Settings

PENDING_WAIT_S = 10.0
FULL_FOR_S = 0.1
KNOWN_FOR_S, MOST_KNOWN = 2.0, 4096
RETRY_S = 0.5
MOMENT_S = 0.15
# A request that went on its way before its answer was given up may still arrive after the first release.
ONCE_MORE_S = 4.0

FULL = "As many jobs as we can take are in flight; try again."


class Submission:
    """The part of the queue with which a gateway takes a request in."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics | None) -> None:
        self.store = store
        self.settings = settings
        self.metrics = metrics
        self.unanswered: Callable[[Reserved], None] = _forget
        self._full: dict[str, tuple[float, float | None]] = {}
        self._without_job: dict[tuple[str, str], float] = {}

    @property
    def _life_s(self) -> int:
        """How long a record may live, from its reservation on."""
        return self.settings.result_ttl_s + int(self.settings.deadline_max_s)

    async def turn_away(self, *, tenant: str, idempotency_key: str | None) -> None:
        """Refuse at once what `reserve` has just refused to this tenant: nobody reads a body for nothing.

        Call it before the body is read. A request whose key has a job goes on, to be answered with that job; the
        store is asked for that once in 2 s. Raises QueueFull within 0.1 s of such a refusal, StoreUnavailable.
        """
        until, retry_after = self._full.get(tenant, (0.0, None))
        if time.monotonic() >= until:
            self._full.pop(tenant, None)
            return
        if idempotency_key is not None and await self._has_job(tenant, idempotency_key):
            return
        raise self._refused(QueueFull(FULL, retry_after=retry_after))

    async def _has_job(self, tenant: str, idempotency_key: str) -> bool:
        """Whether the key was used before, as of at most KNOWN_FOR_S ago."""
        now = time.monotonic()
        if now < self._without_job.get((tenant, idempotency_key), 0.0):
            return False
        name = f"{store_keys.IDEMPOTENCY}{tenant}:{_digest(idempotency_key)}"
        if await self.store.call(lambda: self.store.client.exists(name)):
            return True
        if len(self._without_job) >= MOST_KNOWN:
            self._without_job.clear()
        self._without_job[tenant, idempotency_key] = now + KNOWN_FOR_S
        return False

    async def reserve_upload(self, tenant: str, limits: Limits) -> Reserved:
        """Admission of one upload into the catalogue, under the same rate, quota and concurrency as jobs.

        Give it back with `release`. Raises TooManyRequests, StoreUnavailable.
        """
        answer = await self.reserve(
            tenant=tenant, idempotency_key=None, body_digest="", limits=limits, purpose="upload"
        )
        if isinstance(answer, Existing):
            raise ValueError("an upload has no Idempotency-Key under which there could be another")
        return answer

    async def reserve(
        self,
        *,
        tenant: str,
        idempotency_key: str | None,
        body_digest: str,
        limits: Limits,
        purpose: Literal["job", "upload"] = "job",
    ) -> Reserved | Existing:
        """Admission, before any work: room for a job, or the job the same key and body made before.

        A twin request that is still being read makes this wait up to 10 s. Raises QueueFull, TooManyRequests
        (code rate-limited, concurrency-limited, quota-exceeded or storage-exceeded), IdempotencyMismatch, Conflict
        (the twin is still not a job; try again), StoreUnavailable.
        """
        digest = _digest(idempotency_key) if idempotency_key is not None else ""
        patience = time.monotonic() + PENDING_WAIT_S
        pause = 0.02
        while True:
            job_id = secrets.token_hex(16)
            try:
                answer = await self.store.script(
                    "reserve",
                    job_id,
                    tenant,
                    digest,
                    body_digest,
                    self.settings.max_in_flight,
                    limits.concurrency,
                    limits.rate_per_minute,
                    limits.daily_quota,
                    int(self.settings.reservation_ttl_s * 1000),
                    self._life_s,
                    self.settings.max_backlog_s,
                    limits.stored_bytes,
                    purpose,
                )
            except (StoreUnavailable, asyncio.CancelledError):
                self.unanswered(Reserved(id=job_id, tenant=tenant))
                raise
            match answer[0]:
                case "reserved":
                    if idempotency_key is not None:
                        self._without_job.pop((tenant, idempotency_key), None)
                    return Reserved(id=job_id, tenant=tenant)
                case "existing":
                    return Existing(job_id=answer[1])
                case "pending" if time.monotonic() < patience:
                    await asyncio.sleep(pause)
                    pause = min(0.25, pause * 1.5)
                case _:
                    error = refusal(answer)
                    if isinstance(error, QueueFull):
                        self._full[tenant] = (time.monotonic() + FULL_FOR_S, error.retry_after)
                    raise self._refused(error)

    def _refused(self, error: ServiceError) -> ServiceError:
        if self.metrics is not None:
            self.metrics.admission_rejected.labels(error.code).inc()
        return error

    async def submit(self, reservation: Reserved, spec: JobSpec) -> None:
        """Turn a reservation into a queued job; once it returns, the job is written.

        `spec.id` must be the reservation's. Raises ValueError when it is not, Conflict when the
        reservation was released or ran out meanwhile.
        """
        if spec.id != reservation.id or spec.tenant != reservation.tenant:
            raise ValueError("the job's id and tenant must be those of its reservation")
        done = await self.store.script(
            "submit",
            reservation.id,
            spec.model_dump_json(exclude_defaults=True),
            spec.priority,
            spec.tokens,
            int(spec.deadline_at * 1000),
            self._life_s,
        )
        if not done:
            raise Conflict("The request took too long to read and lost its place; send it again.")

    async def release(self, reservation: Reserved, *, spent: bool = False) -> None:
        """Give a reservation back, its idempotency key and quota included; nothing when it became a job.

        One that was `spent` on an upload keeps its quota.
        """
        await self.store.script("release", reservation.id, int(spent))


def _forget(reservation: Reserved) -> None:
    """Leave an unanswered reservation to its time limit."""


def _digest(idempotency_key: str) -> str:
    return hashlib.sha256(idempotency_key.encode()).hexdigest()


def refusal(answer: Sequence[str]) -> ServiceError:
    """The error for an answer of `reserve.lua` other than reserved or existing.

    QueueFull, TooManyRequests (rate-limited, concurrency-limited, quota-exceeded, storage-exceeded),
    IdempotencyMismatch, or a retryable Conflict for a twin that is still being read.
    """
    retry_after = float(answer[1]) if len(answer) > 1 else SOON
    match answer[0]:
        case "mismatch":
            return IdempotencyMismatch("This Idempotency-Key came with another body; use a new key.")
        case "pending":
            error = Conflict(
                "The first request with this Idempotency-Key is still being read; try again.",
                code="idempotency-in-progress",
                retry_after=retry_after,
            )
            error.retryable = True
            return error
        case "full":
            return QueueFull(FULL, retry_after=retry_after)
        case "rate":
            return TooManyRequests(
                "Too many requests a minute for this key.", code="rate-limited", retry_after=retry_after
            )
        case "concurrency":
            return TooManyRequests(
                "Too many jobs of this key are in flight; wait for one to end.",
                code="concurrency-limited",
                retry_after=retry_after,
            )
        case "quota":
            return TooManyRequests(
                "The daily quota of this key is used up.", code="quota-exceeded", retry_after=retry_after
            )
        case "bytes":
            return TooManyRequests(
                "The records of this key's try-ons take all the room they may; erase some, or wait until old ones go.",
                code="storage-exceeded",
                retry_after=retry_after,
            )
        case other:
            raise ValueError(f"admission answered {other!r}")


@dataclass(frozen=True)
class Unused:
    """A reservation to give back from `due` on, of no interest after `until` (both monotonic seconds)."""

    reservation: Reserved
    due: float
    until: float
    once_more: bool


class UnusedReservations:
    """Releases reservations, patiently, all on one task; `stopping` ends the patience.

    Hears from `submission` of reservations that it cannot know to exist.
    """

    def __init__(self, submission: Submission, stopping: asyncio.Event) -> None:
        self._submission = submission
        self._stopping = stopping
        self._unused: list[Unused] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._patient: asyncio.Task[None] | None = None
        submission.unanswered = self.unanswered

    async def release(self, reservation: Reserved) -> None:
        """Give a reservation back, at once or as soon as the store returns; the caller waits only a moment for it."""
        task = self._start(self._at_once(reservation))
        await asyncio.wait({task}, timeout=MOMENT_S)

    def unanswered(self, reservation: Reserved) -> None:
        """The store may have made this reservation; it is given back in any case."""
        self._later(reservation, once_more=True)

    async def _at_once(self, reservation: Reserved) -> None:
        try:
            await self._submission.release(reservation)
        except StoreUnavailable:
            self._later(reservation, once_more=False)

    def _later(self, reservation: Reserved, *, once_more: bool) -> None:
        now = time.monotonic()
        until = now + self._submission.settings.reservation_ttl_s
        self._unused.append(Unused(reservation, now + RETRY_S, until, once_more))
        if self._patient is None or self._patient.done():
            self._patient = self._start(self._patiently())

    async def _patiently(self) -> None:
        while self._unused:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._stopping.wait()
                return
            with suppress(StoreUnavailable):
                await self._give_back_due()

    async def _give_back_due(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._unused if item.due <= now]:
            if item.until > now:
                await self._submission.release(item.reservation)
                if item.once_more:
                    self._unused.append(replace(item, due=now + ONCE_MORE_S, once_more=False))
            self._unused.remove(item)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
