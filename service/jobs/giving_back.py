"""Reservations given back although the store is away.

A reservation that nobody gives back takes room and holds its Idempotency-Key until it runs out, a minute later:
after an outage that met many requests a queue with nothing in it would refuse as full. That includes reservations
that were asked for and whose answer never came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from service.errors import StoreUnavailable
from service.jobs.admission import Admission
from service.jobs.schemas import Reserved

RETRY_S = 0.5
MOMENT_S = 0.15
# A request that went on its way before its answer was given up may still arrive after the first release.
ONCE_MORE_S = 4.0


@dataclass(frozen=True)
class Left:
    """A reservation to give back from `due` on, of no interest after `until` (both monotonic seconds)."""

    reservation: Reserved
    due: float
    until: float
    once_more: bool


class GivingBack:
    """Releases reservations, patiently, all on one task; `stopping` ends the patience.

    Hears from `admission` of reservations that it cannot know to exist.
    """

    def __init__(self, admission: Admission, stopping: asyncio.Event) -> None:
        self._admission = admission
        self._stopping = stopping
        self._left: list[Left] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._patient: asyncio.Task[None] | None = None
        admission.unanswered = self.unanswered

    async def release(self, reservation: Reserved) -> None:
        """Give a reservation back, at once or as soon as the store returns; the caller waits only a moment for it."""
        task = self._start(self._at_once(reservation))
        await asyncio.wait({task}, timeout=MOMENT_S)

    def unanswered(self, reservation: Reserved) -> None:
        """The store may have made this reservation; it is given back in any case."""
        self._later(reservation, once_more=True)

    async def _at_once(self, reservation: Reserved) -> None:
        try:
            await self._admission.release(reservation)
        except StoreUnavailable:
            self._later(reservation, once_more=False)

    def _later(self, reservation: Reserved, *, once_more: bool) -> None:
        now = time.monotonic()
        until = now + self._admission.settings.reservation_ttl_s
        self._left.append(Left(reservation, now + RETRY_S, until, once_more))
        if self._patient is None or self._patient.done():
            self._patient = self._start(self._patiently())

    async def _patiently(self) -> None:
        while self._left:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._stopping.wait()
                return
            with suppress(StoreUnavailable):
                await self._give_back_due()

    async def _give_back_due(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._left if item.due <= now]:
            if item.until > now:
                await self._admission.release(item.reservation)
                if item.once_more:
                    self._left.append(replace(item, due=now + ONCE_MORE_S, once_more=False))
            self._left.remove(item)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
