"""The jobs this worker holds, and the one set the engine looks at between steps.

`_stops` is written by who hears of cancellations as they happen (`cancellations`), and by the task that renews every
lease each `POLL_S` and reads back what became of each job (canceled, expired, lost), also what the first may have
missed. The engine's thread only reads that dictionary, so no store call ever happens inside a denoising step. While
nothing is held nothing is renewed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from service.errors import StoreUnavailable
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim

log = logging.getLogger(__name__)

Stop = Literal["canceled", "expired", "lost", "drain"]

POLL_S = 0.25


class Leases:
    """Held claims by job id. Methods belong to the event loop; `may_go_on` alone may be called elsewhere."""

    def __init__(self, queue: JobQueue, lease_s: float) -> None:
        self._queue = queue
        self._lease_s = lease_s
        self._held: dict[str, Claim] = {}
        self._stops: dict[str, Stop] = {}
        self._renewed_at = time.monotonic()
        self._wake = asyncio.Event()
        self.none_held = asyncio.Event()
        self.none_held.set()

    def hold(self, claims: list[Claim]) -> None:
        if not self._held:
            self._renewed_at = time.monotonic()
        self._held.update((claim.spec.id, claim) for claim in claims)
        if claims:
            self._wake.set()
            self.none_held.clear()

    def drop(self, claim: Claim) -> None:
        """Forget a job whose end was written (or that is not ours any more)."""
        if self._held.get(claim.spec.id) == claim:
            del self._held[claim.spec.id]
            self._stops.pop(claim.spec.id, None)
            if not self._held:
                self.none_held.set()

    def holds(self, job_id: str) -> bool:
        return job_id in self._held

    def held(self) -> list[Claim]:
        return list(self._held.values())

    def stop_all(self, reason: Stop) -> None:
        for job_id in self._held:
            self._stops.setdefault(job_id, reason)

    def stop_reason(self, claim: Claim) -> Stop | None:
        """Why this job must not go on, or None. The deadline is also read from the local clock."""
        reason = self._stops.get(claim.spec.id)
        if reason is None and time.time() >= claim.spec.deadline_at:
            return "expired"
        return reason

    def may_go_on(self, claim: Claim) -> bool:
        return claim.spec.id in self._held and self.stop_reason(claim) is None

    async def renew_forever(self) -> None:
        while True:
            if not self._held:
                self._wake.clear()
                await self._wake.wait()
            await self.renew()
            await asyncio.sleep(POLL_S)

    def cancel(self, job_id: str) -> None:
        """Note a cancellation, so that the very next step sees it."""
        if job_id in self._held:
            self._stops.setdefault(job_id, "canceled")

    async def renew(self) -> None:
        """One heartbeat for everything held. Without the store for a whole lease, all count as lost."""
        claims = self.held()
        try:
            states = await self._queue.claims.heartbeat(claims)
        except StoreUnavailable:
            if time.monotonic() - self._renewed_at > self._lease_s:
                self.stop_all("lost")
            return
        self._renewed_at = time.monotonic()
        for claim in claims:
            state = states.get(claim.spec.id, "lost")
            if state == "ok" or self._held.get(claim.spec.id) != claim:
                continue
            if claim.spec.id not in self._stops:
                log.info("job stops: %s", state, extra={"job_id": claim.spec.id})
            self._stops[claim.spec.id] = state
