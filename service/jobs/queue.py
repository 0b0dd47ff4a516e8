"""The queue: admission, claims under leases, fencing, deadlines, cancellation, one visible result a job.

Every change of state is one atomic Lua step (the schema is on top of `queue.lua`), so any process may
die between any two calls. All methods raise StoreUnavailable within a second when the store does not
answer. Calls are safe to repeat except `claim`, whose lost answer costs the jobs one lease.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, cast

from redis.asyncio import Redis

from service.errors import NotFound
from service.jobs import store_keys
from service.jobs.owner import FOLLOW_S, EventLog, record_from_hash
from service.jobs.schemas import (
    TERMINAL,
    Backlog,
    Claim,
    Event,
    JobError,
    JobRecord,
    JobResult,
    JobSpec,
    SweepReport,
    WorkerInfo,
)
from service.jobs.store import Store, open_client
from service.jobs.submission import Admission
from service.jobs.upkeep import TotalsCopy
from service.jobs.workers import WorkerNews
from service.metrics import Metrics
from service.settings import Settings

Heartbeat = Literal["ok", "lost", "canceled", "expired"]
Settled = Literal["requeued", "failed", "canceled", "expired", "lost"]
Finish = Literal["succeeded", "failed", "canceled", "expired"]

DEADLINE_GRACE_S = 2.5
MAX_BLOCK_S = 5.0


class JobQueue(Admission):
    """All operations on jobs; one instance a process, on one event loop.

    With `metrics`, the queue counts what it causes or sees: refusals, queue time, latency; `observe`
    copies the store's own totals and gauges.
    """

    def __init__(self, client: Redis, settings: Settings, metrics: Metrics | None = None) -> None:
        super().__init__(Store(client, settings.store_timeout_s), settings, metrics)
        self.event_log = EventLog(self.store)
        self._totals = TotalsCopy()

    @classmethod
    async def connect(cls, settings: Settings, metrics: Metrics | None = None) -> JobQueue:
        """A queue on `settings.redis_url`. Connections open lazily: a store that is down is no error yet."""
        return cls(open_client(settings.redis_url, settings.store_timeout_s), settings, metrics)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        await self.event_log.close()
        await self.store.close()

    async def ping(self) -> None:
        """Raises StoreUnavailable when the store does not answer."""
        await self.store.call(self.store.client.ping)

    async def get(self, job_id: str) -> JobRecord | None:
        """The job as it stands, with its place in the queue (0 is next), or None."""
        answer = await self.store.script("read", job_id)
        if not answer:
            return None
        return record_from_hash(*answer)

    async def existed(self, job_id: str) -> bool:
        """Whether a job of this id was here and has ended, been erased or run out (the difference of
        410 and 404).
        """
        return bool(await self.store.call(lambda: self.store.client.exists(store_keys.GONE + job_id)))

    async def cancel(self, job_id: str) -> JobRecord:
        """Ask for a job to stop: a queued one is canceled at once, a running one at its next step.

        Returns the record after; a terminal job is returned as it is. Raises NotFound.
        """
        await self.store.script("cancel", job_id, self.settings.result_ttl_s)
        record = await self.get(job_id)
        if record is None:
            raise NotFound("There is no such job.")
        return record

    async def erase(self, job_id: str) -> JobRecord | None:
        """Remove a job, its events and its idempotency key at once; a running one is fenced off and stopped.

        Returns the record before, so that its blobs can be erased (`storage.blobs_of`), or None.
        """
        last = await self.store.script("erase", job_id, self.settings.result_ttl_s)
        return record_from_hash(last, None) if last else None

    async def claim(self, worker_id: str, *, max_jobs: int, token_budget: int, block_s: float) -> list[Claim]:
        """Lease up to `max_jobs` waiting jobs, the first always, more while their tokens fit the budget
        together.

        Waits up to `block_s` for work, woken as soon as some comes; [] when none did. Canceled and
        expired jobs never come. A job whose worker was lost comes alone.
        """
        patience = time.monotonic() + block_s
        while True:
            taken = await self.store.script(
                "claim",
                worker_id,
                max_jobs,
                token_budget,
                int(self.settings.lease_s * 1000),
                self.settings.result_ttl_s,
                repeat=False,
            )
            left = patience - time.monotonic()
            if taken or left <= 0:
                break
            wait = min(left, MAX_BLOCK_S)
            await self.store.block(partial(_wake_up, wait), wait)
        claims = [
            Claim(spec=JobSpec.model_validate_json(spec), fence=int(fence), attempt=int(attempt), entry=entry)
            for _, fence, attempt, entry, spec in taken
        ]
        if self.metrics is not None:
            for claim in claims:
                if claim.attempt == 1:
                    self.metrics.queue_time.observe(max(0.0, time.time() - claim.spec.created_at))
        return claims

    async def heartbeat(self, worker_id: str, claims: Sequence[Claim]) -> dict[str, Heartbeat]:
        """Renew the leases of `claims`; by job id what the worker should know: go on, or stop and why.

        `canceled` and `expired` jobs keep their lease and must be ended by `finish` with that status.
        """
        if not claims:
            return {}
        pairs = [part for claim in claims for part in (claim.spec.id, claim.fence)]
        answers = await self.store.script("heartbeat", int(self.settings.lease_s * 1000), *pairs)
        return {claim.spec.id: cast(Heartbeat, answer) for claim, answer in zip(claims, answers, strict=True)}

    async def progress(self, claim: Claim, *, stage: str, step: int, steps: int, preview: bytes | None = None) -> bool:
        """Note and publish a step; `preview` is a small JPEG. False when the lease was lost."""
        shown = base64.b64encode(preview).decode() if preview else ""
        return bool(
            await self.store.script("progress", claim.spec.id, claim.fence, stage, step, steps, shown, repeat=False)
        )

    async def finish(
        self,
        claim: Claim,
        *,
        status: Finish,
        result: JobResult | None = None,
        error: JobError | None = None,
    ) -> bool:
        """End a job. True when this outcome is the visible one.

        False when the lease was lost, or when a picture came after a cancellation: then nobody will see
        `result` and its blob should be deleted.
        """
        (visible,) = await self.store.script(
            "finish",
            claim.spec.id,
            claim.fence,
            status,
            error.model_dump_json() if error else "",
            result.model_dump_json() if result else "",
            self.settings.result_ttl_s,
        )
        if visible and status == "succeeded" and self.metrics is not None:
            garments = str(len(claim.spec.garments))
            self.metrics.request_latency.labels(garments).observe(max(0.0, time.time() - claim.spec.created_at))
        return bool(visible)

    async def hand_back(self, claim: Claim) -> bool:
        """Return a claimed job to its place in the line; the attempt does not count. False when it was
        lost.
        """
        return bool(await self.store.script("hand_back", claim.spec.id, claim.fence, self.settings.result_ttl_s))

    async def fail_attempt(self, claim: Claim, error: JobError) -> Settled:
        """Say that this attempt failed: the job is tried again, alone, or given up after `max_attempts`."""
        answer = await self.store.script(
            "fail_attempt",
            claim.spec.id,
            claim.fence,
            error.model_dump_json(),
            self.settings.max_attempts,
            self.settings.result_ttl_s,
        )
        return cast(Settled, answer)

    async def sweep(self) -> SweepReport:
        """Do what time asks for: requeue or give up lost leases, expire deadlines, drop stale
        reservations.
        """
        answer = await self.store.script(
            "sweep", self.settings.max_attempts, self.settings.result_ttl_s, int(DEADLINE_GRACE_S * 1000)
        )
        return SweepReport.model_validate({name: ids or () for name, ids in json.loads(answer).items()})

    async def backlog(self) -> Backlog:
        """How much waits and runs, and how long the waiting part will take."""
        waiting, running, in_flight, seconds = await self.store.script("backlog")
        return Backlog(waiting=waiting, running=running, in_flight=in_flight, seconds=float(seconds))

    async def totals(self) -> dict[str, int]:
        """Counters of every terminal transition since the store began, by `name|label|label`."""
        counted = await self.store.call(lambda: self.store.client.hgetall(store_keys.TOTALS))
        return {name: int(value) for name, value in counted.items()}

    async def observe(self, metrics: Metrics) -> None:
        """Copy the store's gauges and totals into `metrics`, before a scrape.

        The totals are exact under any crash, and the same from every gateway: aggregate them with max,
        not sum.
        """
        backlog = await self.backlog()
        metrics.requests_waiting.set(backlog.waiting)
        metrics.requests_running.set(backlog.running)
        metrics.backlog_seconds.set(backlog.seconds)
        self._totals.copy(await self.totals(), metrics)

    async def announce(self, info: WorkerInfo, ttl_s: float) -> None:
        """Say that a worker is ready and what its engine is; forgotten after `ttl_s` without another call."""
        await self.store.script("announce", info.id, info.model_dump_json(), int(ttl_s * 1000))

    async def withdraw(self, worker_id: str) -> None:
        """Take an announcement back."""
        await self.store.script("announce", worker_id, "", 0)

    async def workers(self) -> list[WorkerInfo]:
        """The workers that are ready now."""
        return [WorkerInfo.model_validate_json(text) for text in await self.store.script("workers")]

    def subscribe(self, job_id: str, last_id: str | None = None) -> AsyncIterator[Event]:
        """Events of a job after `last_id`, then as they happen, to the terminal one (see `EventLog`)."""
        return self.event_log.subscribe(job_id, last_id)

    async def ended(self, job_id: str) -> JobRecord | None:
        """The record once the job is terminal, None once it is gone; cheaper than following its events.

        Raises StoreUnavailable.
        """
        async with self.event_log.notices.follow(job_id) as notice:
            while True:
                notice.clear()
                record = await self.get(job_id)
                if record is None or record.status in TERMINAL:
                    return record
                with suppress(TimeoutError):
                    async with asyncio.timeout(FOLLOW_S):
                        await notice.wait()

    async def due_webhooks(self, *, limit: int, hold_s: float) -> list[tuple[str, int]]:
        """Ids of ended jobs whose webhook is due, with the number of this try from 1.

        They are this caller's for `hold_s`; `settle_webhook` says what came of each.
        """
        due = await self.store.script("webhooks_due", limit, int(hold_s * 1000), repeat=False)
        return [(job_id, int(tries)) for job_id, tries in due]

    async def settle_webhook(self, job_id: str, *, retry_in_s: float | None = None) -> None:
        """The webhook of a job is done with, or is tried again after `retry_in_s`."""
        client = self.store.client
        if retry_in_s is None:
            await self.store.call(lambda: client.zrem(store_keys.WEBHOOKS, job_id))
        else:
            due = int((time.time() + retry_in_s) * 1000)
            await self.store.call(lambda: client.zadd(store_keys.WEBHOOKS, {job_id: due}, xx=True))

    def news(self) -> WorkerNews:
        """What a worker must hear at once, from now on; it goes on where it was when the store was away."""
        return WorkerNews(self.store)


async def _wake_up(wait_s: float, client: Redis) -> None:
    await client.blpop([store_keys.WAKE], timeout=wait_s)

