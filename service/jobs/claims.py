"""What a worker does with jobs: claim them under a lease, keep the lease, end them.

Each is one atomic step (`scripts/*.lua`) whose writes carry the fencing token. It may be repeated, except `claim`,
whose lost answer costs the jobs one lease.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

from redis.asyncio import Redis

from service.jobs import store_keys
from service.jobs.schemas import Claim, JobError, JobResult, JobSpec
from service.jobs.store import Store
from service.metrics import Metrics
from service.settings import Settings

Heartbeat = Literal["ok", "lost", "canceled", "expired"]
Settled = Literal["requeued", "failed", "canceled", "expired", "lost"]
Finish = Literal["succeeded", "failed", "canceled", "expired"]

MAX_BLOCK_S = 5.0


class Claims:
    """Jobs from the line to their end, for workers; with `metrics`, queue time and latency are counted."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics | None) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics

    async def claim(self, worker_id: str, *, max_jobs: int, token_budget: int, block_s: float) -> list[Claim]:
        """Lease up to `max_jobs` waiting jobs, the first always, more while their tokens fit the budget
        together.

        Waits up to `block_s` for work, woken as soon as some comes; [] when none did. Canceled and
        expired jobs never come. A job whose worker was lost comes alone.
        """
        patience = time.monotonic() + block_s
        while True:
            taken = await self._store.script(
                "claim",
                worker_id,
                max_jobs,
                token_budget,
                int(self._settings.lease_s * 1000),
                self._settings.result_ttl_s,
                repeat=False,
            )
            left = patience - time.monotonic()
            if taken or left <= 0:
                break
            wait = min(left, MAX_BLOCK_S)
            await self._store.block(partial(_wake_up, wait), wait)
        claims = [
            Claim(spec=JobSpec.model_validate_json(spec), fence=int(fence), attempt=int(attempt), entry=entry)
            for _, fence, attempt, entry, spec in taken
        ]
        if self._metrics is not None:
            for claim in claims:
                if claim.attempt == 1:
                    self._metrics.queue_time.observe(max(0.0, time.time() - claim.spec.created_at))
        return claims

    async def heartbeat(self, claims: Sequence[Claim]) -> dict[str, Heartbeat]:
        """Renew the leases of `claims`; by job id what the worker should know: go on, or stop and why.

        `canceled` and `expired` jobs keep their lease and must be ended by `finish` with that status.
        """
        if not claims:
            return {}
        pairs = [part for claim in claims for part in (claim.spec.id, claim.fence)]
        answers = await self._store.script("heartbeat", int(self._settings.lease_s * 1000), *pairs)
        return {claim.spec.id: cast(Heartbeat, answer) for claim, answer in zip(claims, answers, strict=True)}

    async def progress(self, claim: Claim, *, stage: str, step: int, steps: int, preview: bytes | None = None) -> bool:
        """Note and publish a step; `preview` is a small JPEG. False when the lease was lost."""
        shown = base64.b64encode(preview).decode() if preview else ""
        return bool(
            await self._store.script("progress", claim.spec.id, claim.fence, stage, step, steps, shown, repeat=False)
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
        (visible,) = await self._store.script(
            "finish",
            claim.spec.id,
            claim.fence,
            status,
            error.model_dump_json() if error else "",
            result.model_dump_json() if result else "",
            self._settings.result_ttl_s,
        )
        if visible and status == "succeeded" and self._metrics is not None:
            garments = str(len(claim.spec.garments))
            self._metrics.request_latency.labels(garments).observe(max(0.0, time.time() - claim.spec.created_at))
        return bool(visible)

    async def hand_back(self, claim: Claim) -> bool:
        """Return a claimed job to its place in the line; the attempt does not count. False when it was
        lost.
        """
        return bool(await self._store.script("hand_back", claim.spec.id, claim.fence, self._settings.result_ttl_s))

    async def fail_attempt(self, claim: Claim, error: JobError) -> Settled:
        """Say that this attempt failed: the job is tried again, alone, or given up after `max_attempts`."""
        answer = await self._store.script(
            "fail_attempt",
            claim.spec.id,
            claim.fence,
            error.model_dump_json(),
            self._settings.max_attempts,
            self._settings.result_ttl_s,
        )
        return cast(Settled, answer)


async def _wake_up(wait_s: float, client: Redis) -> None:
    await client.blpop([store_keys.WAKE], timeout=wait_s)
