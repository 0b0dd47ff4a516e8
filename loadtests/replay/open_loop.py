"""The open loop: every try-on starts when it is due, whether or not the ones before have been answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from loadtests.replay.client import Clients
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.probe import Probe, ProbeReading
from loadtests.traffic.arrivals import Arrival


@dataclass
class RunRecord:
    """What a run did: an outcome for every try-on that came due, and the service's own readings beside them."""

    began: datetime
    planned: int
    outcomes: list[ClientOutcome] = field(default_factory=list)
    readings: list[ProbeReading] = field(default_factory=list)
    wall_s: float = 0.0
    interrupted: bool = False


class OpenLoop:
    """One run of these arrivals; `record` and `in_flight` may be watched while it goes on."""

    def __init__(self, arrivals: Sequence[Arrival], clients: Clients, probe: Probe | None = None) -> None:
        self._arrivals = arrivals
        self._clients = clients
        self._probe = probe
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._start = 0.0
        self.ended: list[ClientOutcome] = []
        self.record = RunRecord(datetime.now(UTC), len(arrivals))

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start if self._start else 0.0

    @property
    def length_s(self) -> float:
        """When the last try-on is due, in seconds after the start."""
        return self._arrivals[-1].offset_s if self._arrivals else 0.0

    def stop(self) -> None:
        """Send no more, cancel what is on its way, and let `run` return what there is."""
        self.record.interrupted = True
        self._stop.set()

    async def run(self) -> RunRecord:
        """Offer every arrival and wait until each has come to its end."""
        if self._probe is not None:
            await self._probe.once(time.perf_counter())
        self._start = time.perf_counter()
        self.record.began = datetime.now(UTC)
        probing = asyncio.create_task(self._probe.run(self._start)) if self._probe else None
        try:
            await self._offer()
            await self._drain()
        finally:
            for task in self._tasks:
                task.cancel()
            if probing is not None and self._probe is not None:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)
                await self._probe.once(self._start)
                self.record.readings = self._probe.readings
        self.record.wall_s = self.elapsed
        return self.record

    async def _offer(self) -> None:
        for index, arrival in enumerate(self._arrivals):
            due = self._start + arrival.offset_s
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.perf_counter())):
                    await self._stop.wait()
            if self._stop.is_set():
                return
            outcome = ClientOutcome(index, arrival.offset_s, arrival.garments, arrival.priority, arrival.size)
            self.record.outcomes.append(outcome)
            task = asyncio.create_task(self._clients.try_on(arrival, outcome, due))
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, outcome))

    def _done(self, outcome: ClientOutcome, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.ended.append(outcome)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._fault = self._fault or fault
            self._stop.set()

    async def _drain(self) -> None:
        """Wait for what is on its way, or cancel it once stopped. Raises what a client did not expect."""
        left = list(self._tasks)
        ending = asyncio.gather(*left, return_exceptions=True)
        stopping = asyncio.create_task(self._stop.wait())
        either: tuple[asyncio.Future[Any], ...] = (ending, stopping)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in left:
            task.cancel()
        await ending
        if self._fault is not None:
            raise self._fault
