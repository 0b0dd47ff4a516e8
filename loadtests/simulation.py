"""The service as events in time: admission, the line with priorities and turns, workers that batch and look ahead.

A discrete-event simulation that follows the rules of `service.jobs` (reserve, submit, claim, sweep) and of the
worker's pipeline, with measured times instead of pictures. One seed, one outcome. What it leaves out: the
processor time of gateways (give them enough), the network, and cancellations.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import Arrival
from loadtests.service_times import ServiceTimes

HANDICAP_S = {"high": 0.0, "normal": 8.0, "low": 30.0}
SUCCEEDED, EXPIRED, FAILED, FULL, CONCURRENCY, RATE = range(6)
STATUS = ("succeeded", "expired", "failed", "queue-full", "concurrency-limited", "rate-limited")
UNSEEN = -1
LEARNING = 0.2
SWEEP_S = 2.0
LEAST_WAITING, ROOM_SHARE, LIGHT_ROOM = 2, 4, 1.25
DEBT_S = 10.0

_QUEUED, _ROOM, _START, _END, _DONE, _CRASH, _BACK, _LEASE = range(8)


@dataclass(frozen=True)
class Fleet:
    """GPUs and the settings of the service that decide who waits; 0 turns a limit off.

    A request of g garments counts `tokens + g * garment_tokens` against `token_budget`. `mean_time_to_failure_s`
    kills a worker at random times; it is back after `restart_s`, its jobs after their lease.
    """

    gpus: int
    max_in_flight: int = 256
    max_backlog_s: float = 0.0
    concurrency: int = 0
    rate_per_minute: int = 0
    deadline_s: float = 120.0
    max_jobs: int = 16
    token_budget: int = 49_152
    tokens: int = 6_656
    garment_tokens: int = 1_024
    mean_time_to_failure_s: float = 0.0
    restart_s: float = 30.0
    lease_s: float = 15.0
    max_attempts: int = 3

    def cost(self, garments: int) -> int:
        return self.tokens + garments * self.garment_tokens


@dataclass(frozen=True)
class Outcome:
    """What became of every arrival, in their order. Times in seconds; NaN where it never came to that.

    `status` indexes STATUS; `latency` runs from arrival to the result, `wait` from arrival to the engine's start.
    """

    status: NDArray[np.int8]
    offset: NDArray[np.float64]
    latency: NDArray[np.float64]
    wait: NDArray[np.float64]
    batches: int
    batched: int
    busy_s: float
    end_s: float
    gpus: int
    lost_leases: int

    def count(self, *statuses: int) -> int:
        return int(np.isin(self.status, statuses).sum())

    @property
    def utilisation(self) -> float:
        """Share of all GPU time until the last event in which an engine ran."""
        return self.busy_s / (self.gpus * self.end_s) if self.end_s else 0.0

    @property
    def mean_batch(self) -> float:
        return self.batched / self.batches if self.batches else 0.0


@dataclass
class _Worker:
    """One GPU: batches claimed and not started, the batch that runs, and whether it may claim."""

    index: int
    epoch: int = 0
    alive: bool = True
    claimed: deque[list[int]] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)
    ready_at: float = 0.0
    free_at: float = 0.0
    room: bool = True
    began: float = 0.0


_Planned = tuple[_Worker, int]


def simulate(
    arrivals: Sequence[Arrival],
    times: ServiceTimes,
    fleet: Fleet,
    *,
    seed: int = 0,
    tenants: Sequence[str] | None = None,
    recorded: bool = False,
) -> Outcome:
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
        fleet: Fleet,
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
        self._queued_at = np.zeros(count)
        self._taken_at = np.zeros(count)
        self._order = np.zeros(count)
        self._attempts = np.zeros(count, np.int8)
        self._solo: set[int] = set()
        self._batch_of = np.ones(count, np.int16)
        self._lines: dict[str, list[tuple[float, int]]] = {name: [] for name in HANDICAP_S}
        self._waiting: set[int] = set()
        self._deadlines: deque[tuple[float, int]] = deque()
        self._in_flight = 0
        self._leased = 0
        self._held: Counter[str] = Counter()
        self._turns: Counter[tuple[str, str]] = Counter()
        self._last_turn: dict[str, dict[str, float]] = {name: {} for name in HANDICAP_S}
        self._rate_at: dict[str, float] = defaultdict(float)
        self._seconds: float | None = None
        self._workers = [_Worker(index) for index in range(fleet.gpus)]
        self._asking: deque[_Worker] = deque(self._workers)
        self._live = fleet.gpus
        self._busy = 0.0
        self._batches = self._batched = self._lost = 0

    def run(self) -> Outcome:
        """See `simulate`."""
        if self._fleet.mean_time_to_failure_s:
            for worker in self._workers:
                self._plan_crash(worker)
        handlers = (
            self._on_queued,
            self._on_room,
            self._on_start,
            self._on_end,
            self._on_done,
            self._on_crash,
            self._on_back,
            self._on_lease,
        )
        last = 0.0
        coming = 0
        while coming < len(self._arrivals) or self._in_flight:
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
        return Outcome(
            self._status,
            np.array([arrival.offset_s for arrival in self._arrivals]),
            self._latency,
            self._wait,
            self._batches,
            self._batched,
            self._busy,
            last,
            self._fleet.gpus,
            self._lost,
        )

    def _at(self, time: float, kind: int, what: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, kind, what))

    def _tenant(self, job: int) -> str:
        return self._tenants[job] if self._tenants is not None else ""

    def _arrive(self, job: int) -> None:
        refused = self._refusal(self._tenant(job))
        if refused is not None:
            self._status[job] = refused
            return
        self._in_flight += 1
        self._held[self._tenant(job)] += 1
        if self._times.intake_s:
            self._at(self._now + self._times.intake_s, _QUEUED, job)
        else:
            self._on_queued(job)

    def _refusal(self, tenant: str) -> int | None:
        """The rules of reserve.lua, in its order."""
        fleet = self._fleet
        if fleet.max_in_flight and self._in_flight >= fleet.max_in_flight:
            return FULL
        if fleet.max_backlog_s and self._seconds is not None:
            live = max(1, self._live)
            waiting = self._in_flight - self._leased
            room = max(LEAST_WAITING * live, fleet.max_backlog_s * live / self._seconds)
            own = self._held[tenant]
            free = (LIGHT_ROOM * room if own < room / 4 else room) - waiting
            if free < 1 or own >= ROOM_SHARE * free:
                return FULL
        if fleet.concurrency and self._held[tenant] >= fleet.concurrency:
            return CONCURRENCY
        if fleet.rate_per_minute:
            gap = 60.0 / fleet.rate_per_minute
            arrival = max(self._rate_at[tenant], self._now)
            if arrival - self._now > 60.0 - gap:
                return RATE
            self._rate_at[tenant] = arrival + gap
        return None

    def _on_queued(self, job: int) -> None:
        priority = self._arrivals[job].priority
        turns = (priority, self._tenant(job))
        self._queued_at[job] = self._now
        self._order[job] = self._place(turns)
        self._turns[turns] += 1
        self._deadlines.append((self._now + self._fleet.deadline_s, job))
        self._line_up(job)

    def _place(self, turns: tuple[str, str]) -> float:
        """The rule of submit.lua: a virtual clock for each tenant of a priority."""
        places = self._last_turn[turns[0]]
        place = self._now
        if turns[1] in places:
            gap = (self._seconds or 1.0) * len(places) / max(1, self._live)
            last = places[turns[1]]
            place = max(self._now, last + 0.001, min(last + gap, self._now + DEBT_S))
        places[turns[1]] = place
        return place

    def _line_up(self, job: int) -> None:
        self._waiting.add(job)
        heapq.heappush(self._lines[self._arrivals[job].priority], (self._order[job], job))
        self._offer()

    def _offer(self) -> None:
        """Let workers that wait for work claim while there is any, the longest waiting first."""
        while self._asking and self._waiting:
            worker = self._asking.popleft()
            if worker.alive and worker.room:
                self._claim(worker)

    def _next_waiting(self, closed: set[str]) -> int | None:
        best, best_time = None, math.inf
        for priority, line in self._lines.items():
            while line and line[0][1] not in self._waiting:
                heapq.heappop(line)
            if line and priority not in closed:
                time = self._queued_at[line[0][1]] + HANDICAP_S[priority]
                if time < best_time:
                    best, best_time = line[0][1], time
        return best

    def _claim(self, worker: _Worker) -> None:
        """The rules of claim.lua, then the worker's own grouping."""
        taken: list[int] = []
        used, closed = 0, set()
        while len(taken) < self._fleet.max_jobs and (job := self._next_waiting(closed)) is not None:
            tokens = self._fleet.cost(self._arrivals[job].garments)
            if taken and (job in self._solo or used + tokens > self._fleet.token_budget):
                closed.add(self._arrivals[job].priority)
                continue
            self._waiting.discard(job)
            self._taken_at[job] = self._now
            self._attempts[job] += 1
            taken.append(job)
            used += tokens
            if job in self._solo:
                break
        self._leased += len(taken)
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

    def _current(self, planned: _Planned) -> _Worker | None:
        """The worker an event is for; None when it crashed since the event was planned."""
        worker, epoch = planned
        return worker if worker.epoch == epoch else None

    def _on_room(self, planned: _Planned) -> None:
        worker = self._current(planned)
        if worker is not None and not worker.claimed:
            self._make_room(worker)

    def _make_room(self, worker: _Worker) -> None:
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
        seconds = (self._now - self._taken_at[job]) / float(self._batch_of[job])
        known = self._seconds
        self._seconds = seconds if known is None else (1 - LEARNING) * known + LEARNING * seconds
        self._leased -= 1
        self._latency[job] = self._now - self._arrivals[job].offset_s
        self._terminate(job, SUCCEEDED)

    def _terminate(self, job: int, status: int) -> None:
        self._status[job] = status
        self._in_flight -= 1
        self._held[self._tenant(job)] -= 1
        priority, tenant = self._arrivals[job].priority, self._tenant(job)
        self._turns[priority, tenant] -= 1
        if not self._turns[priority, tenant]:
            del self._last_turn[priority][tenant]

    def _expire(self) -> None:
        """Jobs still waiting at their deadline end; one the engine has begun is let finish."""
        while self._deadlines and self._deadlines[0][0] <= self._now:
            _, job = self._deadlines.popleft()
            if job in self._waiting:
                self._waiting.discard(job)
                self._terminate(job, EXPIRED)

    def _plan_crash(self, worker: _Worker) -> None:
        after = self._random.expovariate(1.0 / self._fleet.mean_time_to_failure_s)
        self._at(self._now + after, _CRASH, worker)

    def _on_crash(self, worker: _Worker) -> None:
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

    def _on_back(self, worker: _Worker) -> None:
        worker.alive = True
        worker.free_at = self._now
        self._live += 1
        self._plan_crash(worker)
        self._make_room(worker)

    def _on_lease(self, jobs: tuple[int, ...]) -> None:
        for job in jobs:
            self._lost += 1
            self._leased -= 1
            if self._attempts[job] >= self._fleet.max_attempts:
                self._terminate(job, FAILED)
            else:
                self._solo.add(job)
                self._line_up(job)
