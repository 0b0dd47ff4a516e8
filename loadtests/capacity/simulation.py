"""The service as events in time: admission, the line with priorities and turns, workers that batch and look ahead.

A discrete-event simulation that follows the rules of `service.jobs` (reserve, submit, claim, sweep) and of the
worker's pipeline, with measured times instead of pictures. One seed, one outcome. What it leaves out: the
processor time of gateways (give them enough), the network, and cancellations.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from loadtests.capacity.admission import Admission
from loadtests.capacity.fleet import EXPIRED, FAILED, SUCCEEDED, UNSEEN, SimulatedFleet, SimulatedRun, SimulatedWorker
from loadtests.capacity.line import Line
from loadtests.capacity.service_times import ServiceTimes
from loadtests.traffic.arrivals import Arrival

SWEEP_S = 2.0

_QUEUED, _ROOM, _START, _END, _DONE, _CRASH, _BACK, _LEASE = range(8)
_Planned = tuple[SimulatedWorker, int]


def simulate(
    arrivals: Sequence[Arrival],
    times: ServiceTimes,
    fleet: SimulatedFleet,
    *,
    seed: int = 0,
    tenants: Sequence[str] | None = None,
    recorded: bool = False,
) -> SimulatedRun:
    """Run `arrivals` (sorted by offset) through `fleet` until the last accepted one has ended.

    `tenants` names the key of each arrival (default: one key). `recorded` takes an arrival's own `service_s` as
    its engine time where it has one. Raises ValueError for unsorted arrivals or fewer than one GPU.
    """
    if fleet.gpus < 1:
        raise ValueError("at least one GPU")
    if any(later.offset_s < one.offset_s for one, later in pairwise(arrivals)):
        raise ValueError("arrivals must be sorted by their offset")
    return _Run(arrivals, times, fleet, seed, tenants, recorded).run()


class _Run:
    """The state of one simulation; `run` may be called once."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        times: ServiceTimes,
        fleet: SimulatedFleet,
        seed: int,
        tenants: Sequence[str] | None,
        recorded: bool,
    ) -> None:
        self._arrivals, self._times, self._fleet = arrivals, times, fleet
        self._tenants = tenants
        self._recorded = recorded
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, int, Any]] = []
        self._sequence = 0
        self._now = 0.0
        count = len(arrivals)
        self._status = np.full(count, UNSEEN, np.int8)
        self._latency = np.full(count, math.nan)
        self._wait = np.full(count, math.nan)
        self._taken_at = np.zeros(count)
        self._attempts = np.zeros(count, np.int8)
        self._solo: set[int] = set()
        self._batch_of = np.ones(count, np.int16)
        self._admission = Admission(fleet)
        self._line = Line()
        self._workers = [SimulatedWorker(index) for index in range(fleet.gpus)]
        self._asking: deque[SimulatedWorker] = deque(self._workers)
        self._live = fleet.gpus
        self._busy = 0.0
        self._batches = self._batched = self._lost = 0

    def run(self) -> SimulatedRun:
        """See `simulate`."""
        if self._fleet.mean_time_to_failure_s:
            for worker in self._workers:
                self._plan_crash(worker)
        handlers = (
            *(self._on_queued, self._on_room, self._on_start, self._on_end),
            *(self._on_done, self._on_crash, self._on_back, self._on_lease),
        )
        last = 0.0
        coming = 0
        while coming < len(self._arrivals) or self._admission.in_flight:
            if coming < len(self._arrivals) and (
                not self._events or self._arrivals[coming].offset_s <= self._events[0][0]
            ):
                self._now = self._arrivals[coming].offset_s
                self._expire()
                self._arrive(coming)
                coming += 1
            else:
                self._now, _, kind, what = heapq.heappop(self._events)
                self._expire()
                handlers[kind](what)
            last = self._now
        return SimulatedRun(
            status=self._status,
            offset=np.array([arrival.offset_s for arrival in self._arrivals]),
            latency=self._latency,
            wait=self._wait,
            batches=self._batches,
            batched=self._batched,
            busy_s=self._busy,
            end_s=last,
            gpus=self._fleet.gpus,
            lost_leases=self._lost,
        )

    def _at(self, time: float, kind: int, what: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, kind, what))

    def _tenant(self, job: int) -> str:
        return self._tenants[job] if self._tenants is not None else ""

    def _arrive(self, job: int) -> None:
        tenant = self._tenant(job)
        refused = self._admission.refusal(tenant, self._now, self._live)
        if refused is not None:
            self._status[job] = refused
            return
        self._admission.enter(tenant)
        if self._times.intake_s:
            self._at(self._now + self._times.intake_s, _QUEUED, job)
        else:
            self._on_queued(job)

    def _on_queued(self, job: int) -> None:
        self._line.enter(
            job,
            self._arrivals[job].priority,
            self._tenant(job),
            self._now,
            gap_s=(self._admission.seconds or 1.0) / max(1, self._live),
            deadline_s=self._fleet.deadline_s,
        )
        self._offer()

    def _offer(self) -> None:
        """Let workers that wait for work claim while there is any, the longest waiting first."""
        while self._asking and self._line:
            worker = self._asking.popleft()
            if worker.alive and worker.room:
                self._claim(worker)

    def _claim(self, worker: SimulatedWorker) -> None:
        """The rules of claim.lua, then the worker's own grouping."""
        taken: list[int] = []
        closed: set[str] = set()
        used = 0
        while len(taken) < self._fleet.max_jobs and (job := self._line.first(closed)) is not None:
            tokens = self._fleet.cost(self._arrivals[job].garments)
            if taken and (job in self._solo or used + tokens > self._fleet.token_budget):
                closed.add(self._arrivals[job].priority)
                continue
            self._line.take(job)
            self._taken_at[job] = self._now
            self._attempts[job] += 1
            taken.append(job)
            used += tokens
            if job in self._solo:
                break
        self._admission.leased += len(taken)
        self._batch_of[taken] = len(taken)
        worker.room = False
        worker.claimed.append(taken)
        worker.ready_at = self._now + self._times.prepare_s
        if not worker.running:
            self._at(max(worker.ready_at, worker.free_at + self._times.turnaround_s), _START, (worker, worker.epoch))

    def _on_start(self, planned: _Planned) -> None:
        worker = self._current(planned)
        if worker is None or worker.running or not worker.claimed:
            return
        batch = [job for job in worker.claimed.popleft() if self._status[job] == UNSEEN]
        if not batch:
            self._make_room(worker)
            return
        for job in batch:
            self._wait[job] = self._now - self._arrivals[job].offset_s
        seconds = self._engine_seconds(batch)
        worker.running, worker.began = batch, self._now
        self._batches += 1
        self._batched += len(batch)
        lead = self._times.lead * seconds
        if lead > 0:
            self._at(self._now + seconds - lead, _ROOM, (worker, worker.epoch))
        self._at(self._now + seconds, _END, (worker, worker.epoch))

    def _engine_seconds(self, batch: Sequence[int]) -> float:
        if self._recorded:
            own = [self._arrivals[job].service_s for job in batch]
            if None not in own:
                return sum(seconds for seconds in own if seconds is not None)
        mean = self._times.mean([self._arrivals[job].garments for job in batch])
        spread = self._times.spread
        return mean * (spread[0] if len(spread) == 1 else self._random.choice(spread))

    def _current(self, planned: _Planned) -> SimulatedWorker | None:
        """The worker an event is for; None when it crashed since the event was planned."""
        worker, epoch = planned
        return worker if worker.epoch == epoch else None

    def _on_room(self, planned: _Planned) -> None:
        worker = self._current(planned)
        if worker is not None and not worker.claimed:
            self._make_room(worker)

    def _make_room(self, worker: SimulatedWorker) -> None:
        if not worker.room:
            worker.room = True
            self._asking.append(worker)
            self._offer()

    def _on_end(self, planned: _Planned) -> None:
        worker = self._current(planned)
        if worker is None:
            return
        self._busy += self._now - worker.began
        worker.free_at = self._now
        ended, worker.running = worker.running, []
        for job in ended:
            self._at(self._now + self._times.settle_s, _DONE, job)
        if worker.claimed:
            begin = max(worker.ready_at, self._now + self._times.turnaround_s)
            self._at(begin, _START, (worker, worker.epoch))
        else:
            self._make_room(worker)

    def _on_done(self, job: int) -> None:
        if self._status[job] != UNSEEN:
            return
        self._admission.learn((self._now - self._taken_at[job]) / float(self._batch_of[job]))
        self._admission.leased -= 1
        self._latency[job] = self._now - self._arrivals[job].offset_s
        self._terminate(job, SUCCEEDED)

    def _terminate(self, job: int, status: int) -> None:
        self._status[job] = status
        self._admission.leave(self._tenant(job))
        self._line.end(self._arrivals[job].priority, self._tenant(job))

    def _expire(self) -> None:
        """Jobs still waiting at their deadline end; one the engine has begun is let finish."""
        for job in self._line.overdue(self._now):
            self._terminate(job, EXPIRED)

    def _plan_crash(self, worker: SimulatedWorker) -> None:
        after = self._random.expovariate(1.0 / self._fleet.mean_time_to_failure_s)
        self._at(self._now + after, _CRASH, worker)

    def _on_crash(self, worker: SimulatedWorker) -> None:
        held = [*worker.running, *(job for batch in worker.claimed for job in batch)]
        if worker.running:
            self._busy += self._now - worker.began
        worker.epoch += 1
        worker.alive, worker.room = False, False
        worker.running = []
        worker.claimed.clear()
        self._live -= 1
        self._at(self._now + self._fleet.restart_s, _BACK, worker)
        if held:
            self._at(self._now + self._fleet.lease_s + self._random.uniform(0, SWEEP_S), _LEASE, tuple(held))

    def _on_back(self, worker: SimulatedWorker) -> None:
        worker.alive = True
        worker.free_at = self._now
        self._live += 1
        self._plan_crash(worker)
        self._make_room(worker)

    def _on_lease(self, jobs: tuple[int, ...]) -> None:
        for job in jobs:
            self._lost += 1
            self._admission.leased -= 1
            if self._attempts[job] >= self._fleet.max_attempts:
                self._terminate(job, FAILED)
            else:
                self._solo.add(job)
                self._line.line_up(job, self._arrivals[job].priority)
                self._offer()
