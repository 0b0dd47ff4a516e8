"""What changed between readings: rates, shares and quantiles over the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.jobs.schemas import Activity, WorkerInfo
from service.metrics import LATENCY_BUCKETS, STAGE_BUCKETS
from service.top.reading import Reading

WINDOW_S = 60.0
WHOLE = "whole try-on"
# In the order a try-on passes them; whatever else a worker tells comes behind.
ORDER = ("intake", "queue", "prepare", "text", "vae_encode", "denoise", "vae_decode", "encode", "store")
Counts = tuple[int, ...]


@dataclass(frozen=True)
class StageTimes:
    """Quantiles of a stage in seconds, over `count` jobs."""

    name: str
    p50: float
    p95: float
    count: int


class History:
    """Readings of the last minute, the newest last."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """Take a reading in and forget those that are older than a minute, but for one."""
        self._readings.append(reading)
        while len(self._readings) > 2 and reading.at - self._readings[1].at >= WINDOW_S:
            self._readings.popleft()

    @property
    def now(self) -> Reading:
        return self._readings[-1]

    @property
    def span_s(self) -> float:
        """Seconds between the oldest and the newest reading."""
        return self._readings[-1].at - self._readings[0].at

    def waiting(self) -> list[int]:
        """How many waited at each reading."""
        return [reading.backlog.waiting for reading in self._readings if reading.backlog is not None]

    def ended(self) -> dict[str, float]:
        """Try-ons that ended, a second, by status."""
        rates: dict[str, float] = {}
        for name, rate in self._rates("totals").items():
            kind, _, labels = name.partition("|")
            if kind == "requests":
                status = labels.partition("|")[0]
                rates[status] = rates.get(status, 0.0) + rate
        return rates

    def refused(self) -> dict[str, float] | None:
        """Requests turned away a second, by reason; None when no gateway answers."""
        return self._rates("refused") if self.now.refused is not None else None

    def total(self, name: str) -> dict[str, int]:
        """A total of the store since it began, by its label ("" without one)."""
        parts = ((*key.partition("|"), count) for key, count in (self.now.totals or {}).items())
        return {label: count for key, _, label, count in parts if key == name}

    def busy(self, worker: WorkerInfo) -> float | None:
        """Share of time the engine of a worker ran, over the last minute or since the worker became ready."""
        done = worker.activity
        if done is None:
            return None
        before = self._earlier(worker)
        started, busy = (before.at, before.busy_s) if before is not None else (done.since, 0.0)
        return min(1.0, (done.busy_s - busy) / (done.at - started)) if done.at > started else 0.0

    def stages(self) -> tuple[list[StageTimes], bool]:
        """The stages of the last minute; of all time, and True, when nothing finished in it."""
        fresh: dict[str, list[int]] = {}
        ever: dict[str, list[int]] = {}
        for worker in self.now.workers or ():
            if worker.activity is not None:
                before = self._earlier(worker)
                for name, counts in _named(worker.activity).items():
                    known = _named(before).get(name, ()) if before is not None else ()
                    _add(ever, name, counts)
                    _add(fresh, name, tuple(map(int.__sub__, counts, known)) if known else counts)
        old = not any(map(sum, fresh.values()))
        return _ordered(ever if old else fresh), old

    def _rates(self, what: str) -> dict[str, float]:
        newest: Mapping[str, int] | None = getattr(self.now, what)
        if newest is None:
            return {}
        oldest = next(r for r in self._readings if getattr(r, what) is not None)
        before: Mapping[str, int] = getattr(oldest, what)
        passed = self.now.at - oldest.at
        return {
            name: max(0, count - before.get(name, 0)) / passed if passed > 0 else 0.0 for name, count in newest.items()
        }

    def _earlier(self, worker: WorkerInfo) -> Activity | None:
        """What this worker told at the oldest reading that knows it, when that was another announcement."""
        for reading in self._readings:
            for other in reading.workers or ():
                if other.id == worker.id and other.activity is not None:
                    told = worker.activity
                    return other.activity if told is not None and other.activity.at < told.at else None
        return None


def _named(activity: Activity) -> dict[str, Counts]:
    """Counts by name, without those of a release whose buckets are others."""
    named = {**activity.stages, WHOLE: activity.latency}
    return {name: counts for name, counts in named.items() if len(counts) == len(_bounds(name)) + 1}


def _bounds(name: str) -> tuple[float, ...]:
    return LATENCY_BUCKETS if name == WHOLE else STAGE_BUCKETS


def _add(into: dict[str, list[int]], name: str, counts: Counts) -> None:
    known = into.setdefault(name, [0] * len(counts))
    for index, count in enumerate(counts):
        known[index] += count


def _ordered(stages: Mapping[str, list[int]]) -> list[StageTimes]:
    rank = {name: index for index, name in enumerate((*ORDER, WHOLE))}
    names = sorted((name for name in stages if sum(stages[name])), key=lambda name: (rank.get(name, len(ORDER)), name))
    return [
        StageTimes(
            name,
            quantile(stages[name], 0.5, _bounds(name)),
            quantile(stages[name], 0.95, _bounds(name)),
            sum(stages[name]),
        )
        for name in names
    ]


def quantile(counts: Iterable[int], share: float, bounds: Sequence[float]) -> float:
    """A quantile of a histogram with these upper bounds, as PromQL estimates it; 0.0 of nothing."""
    numbers = list(counts)
    wanted = share * sum(numbers)
    below, lower = 0, 0.0
    for count, upper in zip(numbers, bounds, strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below, lower = below + count, upper
    return bounds[-1] if any(numbers) else 0.0
