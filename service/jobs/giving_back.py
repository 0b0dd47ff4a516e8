"""Reservations given back although the store is away.

A reservation that nobody gives back holds its Idempotency-Key until it runs out, a minute later: a client whose
request met an outage would be told all that time that its first try is still being read.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from service.errors import StoreUnavailable
from service.jobs.admission import Admission
from service.jobs.schemas import Reserved

RETRY_S = 0.5
MOMENT_S = 0.15


class GivingBack:
    """Releases reservations, patiently; `stopping` ends the patience."""

    def __init__(self, admission: Admission, stopping: asyncio.Event) -> None:
        self._admission = admission
        self._stopping = stopping
        self._waiting: set[asyncio.Task[None]] = set()

    async def release(self, reservation: Reserved) -> None:
        """Give a reservation back, at once or as soon as the store returns; the caller waits only a moment for it."""
        task = asyncio.create_task(self._give_back(reservation))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        await asyncio.wait({task}, timeout=MOMENT_S)

    async def _give_back(self, reservation: Reserved) -> None:
        patience = time.monotonic() + self._admission.settings.reservation_ttl_s
        while time.monotonic() < patience:
            with suppress(StoreUnavailable):
                await self._admission.release(reservation)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._stopping.wait()
                return
