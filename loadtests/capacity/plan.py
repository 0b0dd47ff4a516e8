"""`changeroom loadtest capacity`: the fewest GPUs that keep an objective under a given traffic, by simulation.

Each fleet size sees the same arrivals. The search doubles until the objective is kept, halves back to the
smallest fleet that keeps it, and shows its neighbours, so that the price of one GPU less can be read off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from loadtests.capacity.fleet import EXPIRED, FAILED, SUCCEEDED, SimulatedFleet, SimulatedRun
from loadtests.capacity.service_times import ServiceTimes
from loadtests.capacity.simulation import simulate
from loadtests.traffic.arrivals import Arrival

MOST_GPUS = 20_000
NEIGHBOURS = 2
IN_FLIGHT_PER_GPU = 32


class NotEnough(ValueError):
    """No fleet keeps the objective; the message is one line that says why."""


@dataclass(frozen=True)
class Goal:
    """What a fleet must keep: bounds of latency in seconds by percentile, and the share that may go unserved."""

    latency_s: tuple[tuple[float, float], ...]
    unserved: float = 0.01

    def kept(self, row: CapacityRow) -> bool:
        values = {50.0: row.p50_s, 95.0: row.p95_s, 99.0: row.p99_s}
        return row.unserved <= self.unserved and all(values[p] <= bound for p, bound in self.latency_s)

    def text(self) -> str:
        bounds = ", ".join(f"p{p:g} at most {bound:g} s" for p, bound in self.latency_s)
        return f"{bounds}, at most {self.unserved:.2%} refused or unfinished"


@dataclass(frozen=True)
class CapacityRow:
    """One fleet size. Latencies of finished try-ons in seconds (infinite when none finished), shares of arrivals."""

    gpus: int
    p50_s: float
    p95_s: float
    p99_s: float
    throughput: float
    rejected: float
    expired: float
    failed: float
    utilisation: float
    mean_batch: float
    keeps: bool = False

    @property
    def unserved(self) -> float:
        return self.rejected + self.expired + self.failed


@dataclass(frozen=True)
class CapacityPlan:
    """The answer: `gpus` is the smallest fleet that keeps the goal, `rows` are all that were tried, by size."""

    gpus: int
    rows: tuple[CapacityRow, ...]
    goal: Goal
    requests: int
    length_s: float
    mean_rate: float
    peak_minute_rate: float
    offered_load: float
    mean_seconds: float
    service_cv2: float
    seed: int

    @property
    def chosen(self) -> CapacityRow:
        return next(row for row in self.rows if row.gpus == self.gpus)

    def as_json(self) -> dict[str, Any]:
        """Plain values; infinite latencies are None."""
        rows = [
            {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in row.items()}
            for row in map(asdict, self.rows)
        ]
        return asdict(self) | {"goal": self.goal.text(), "rows": rows}


def row_of(outcome: SimulatedRun, length_s: float) -> CapacityRow:
    """The numbers of one simulation; throughput counts until the last result."""
    total = max(1, len(outcome.status))
    done = outcome.latency[outcome.status == SUCCEEDED]
    p50, p95, p99 = np.percentile(done, [50, 95, 99]) if done.size else (math.inf,) * 3
    expired, failed = outcome.count(EXPIRED), outcome.count(FAILED)
    return CapacityRow(
        gpus=outcome.gpus,
        p50_s=float(p50),
        p95_s=float(p95),
        p99_s=float(p99),
        throughput=done.size / max(length_s, outcome.end_s, 1e-9),
        rejected=(len(outcome.status) - done.size - expired - failed) / total,
        expired=expired / total,
        failed=failed / total,
        utilisation=outcome.utilisation,
        mean_batch=outcome.mean_batch,
    )


def mix_of(arrivals: Sequence[Arrival]) -> dict[int, float]:
    """Share of each number of garments."""
    counts = Counter(arrival.garments for arrival in arrivals)
    return {garments: count / len(arrivals) for garments, count in sorted(counts.items())}


def peak_rate(arrivals: Sequence[Arrival], window_s: float = 60.0) -> float:
    """Arrivals a second in the busiest window."""
    offsets = np.array([arrival.offset_s for arrival in arrivals])
    inside = np.searchsorted(offsets, offsets + window_s) - np.arange(len(offsets))
    return float(inside.max()) / window_s


def sized(fleet: SimulatedFleet, gpus: int) -> SimulatedFleet:
    """`fleet` with another number of GPUs; room in flight grows with it when it was left at 0."""
    return replace(fleet, gpus=gpus, max_in_flight=fleet.max_in_flight or max(256, IN_FLIGHT_PER_GPU * gpus))


def plan(
    arrivals: Sequence[Arrival],
    times: ServiceTimes,
    fleet: SimulatedFleet,
    goal: Goal,
    *,
    seed: int = 0,
    recorded: bool = False,
    told: Callable[[CapacityRow], None] | None = None,
) -> CapacityPlan:
    """The smallest fleet that keeps `goal`; `fleet.gpus` is ignored. `told` hears of each size as it is tried.

    Raises ValueError for no arrivals, NotEnough when the latency without any waiting is over the goal.
    """
    if not arrivals:
        raise ValueError("the trace has no requests")
    length = arrivals[-1].offset_s
    load = _engine_seconds(arrivals, times, recorded) / max(length, 1.0)
    tried: dict[int, CapacityRow] = {}

    def trial(gpus: int) -> bool:
        if gpus not in tried:
            found = row_of(simulate(arrivals, times, sized(fleet, gpus), seed=seed, recorded=recorded), length)
            tried[gpus] = replace(found, keeps=goal.kept(found))
            if told is not None:
                told(tried[gpus])
        return tried[gpus].keeps

    low, high = 0, max(1, math.ceil(load * 0.5))
    while not trial(high):
        if (tried[high].utilisation < 0.02 and tried[high].unserved <= goal.unserved) or high > MOST_GPUS:
            row = tried[high]
            raise NotEnough(
                f"{high} GPUs are no better than fewer: p95 {row.p95_s:.2f} s, {row.unserved:.2%} unserved without "
                "waiting; the service itself is slower than the objective"
            )
        low, high = high, max(high + 1, math.ceil(high * 1.5))
    while high - low > 1:
        middle = (low + high) // 2
        if trial(middle):
            high = middle
        else:
            low = middle
    for gpus in range(max(1, high - NEIGHBOURS), high + NEIGHBOURS + 1):
        trial(gpus)
    return CapacityPlan(
        gpus=high,
        rows=tuple(tried[gpus] for gpus in sorted(tried)),
        goal=goal,
        requests=len(arrivals),
        length_s=length,
        mean_rate=len(arrivals) / max(length, 1.0),
        peak_minute_rate=peak_rate(arrivals),
        offered_load=load,
        mean_seconds=load * max(length, 1.0) / len(arrivals),
        service_cv2=times.moments(mix_of(arrivals))[1],
        seed=seed,
    )


def _engine_seconds(arrivals: Sequence[Arrival], times: ServiceTimes, recorded: bool) -> float:
    if recorded:
        return sum(one.service_s or times.mean([one.garments]) for one in arrivals)
    return sum(times.mean([one.garments]) for one in arrivals)
