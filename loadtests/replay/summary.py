"""The numbers of a run: shares, percentiles, and the same over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtests.replay.open_loop import RunRecord
from loadtests.replay.outcomes import BAD, ClientOutcome

MOST_BINS = 90
FEWEST_BINS = 12
WANTED_IN_A_BIN = 8
NICE_BINS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400)


@dataclass(frozen=True)
class Spread:
    """Percentiles of some seconds; None where there are none."""

    count: int
    p5: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None


def spread(values: Iterable[float]) -> Spread:
    """The percentiles of `values`, interpolated between ranks."""
    found = np.asarray(list(values), dtype=np.float64)
    if not found.size:
        return Spread(0)
    cuts = np.percentile(found, [5, 50, 90, 95, 99, 99.9, 100])
    return Spread(int(found.size), *(float(cut) for cut in cuts))


@dataclass(frozen=True)
class Bin:
    """A slice of the run. Offers count where they were due, ends where they ended, latencies by when due.

    `rates` are per second: offered, succeeded. `ends` counts the unhappy ends and every single rejection.
    """

    at: float
    offered: float
    succeeded: float
    latency: Spread
    ends: dict[str, int]


@dataclass(frozen=True)
class Summary:
    """Everything the report says. Seconds; rates per second; shares of 0 to 1 of the try-ons that came to an end."""

    planned: int
    offered: int
    interrupted: bool
    length_s: float
    wall_s: float
    offered_rate: float
    goodput: float
    ends: dict[str, int]
    codes: dict[str, dict[str, int]]
    availability: float | None
    rejected_share: float
    gave_up_share: float
    attempts: int
    latency: Spread
    accepted: Spread
    time_to_reject: Spread
    download: Spread
    lateness: Spread
    by_garments: dict[str, Spread]
    by_priority: dict[str, Spread]
    server: dict[str, Spread]
    bin_s: float
    bins: list[Bin]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(record: RunRecord) -> Summary:
    """The summary of a run, also of one that was stopped early."""
    outcomes = record.outcomes
    ended = [one for one in outcomes if one.end != "unfinished"]
    good = [one for one in ended if one.end == "succeeded"]
    bad = sum(one.end in BAD for one in ended)
    ends = Counter(one.end for one in outcomes)
    length = max((one.due_at for one in outcomes), default=0.0)
    busy = max((one.ended_at for one in ended), default=0.0)
    width = bin_width(max(length, busy), len(outcomes))
    stages = sorted({name for one in good for name in one.server})
    return Summary(
        planned=record.planned,
        offered=len(outcomes),
        interrupted=record.interrupted,
        length_s=length,
        wall_s=record.wall_s,
        offered_rate=len(outcomes) / max(length, 1.0),
        goodput=len(good) / max(busy, 1.0),
        ends=dict(ends.most_common()),
        codes={end: _codes(ended, end) for end in ends if any(one.code and one.end == end for one in ended)},
        availability=len(good) / (len(good) + bad) if good or bad else None,
        rejected_share=ends["rejected"] / max(len(ended), 1),
        gave_up_share=ends["gave up"] / max(len(ended), 1),
        attempts=sum(one.attempts for one in outcomes),
        latency=spread(one.latency for one in good),
        accepted=spread(one.accepted for one in ended if one.accepted is not None),
        time_to_reject=spread(took for one in outcomes for *_, took in one.rejections),
        download=spread(one.download for one in good if one.download is not None and not one.slow),
        lateness=spread(one.late for one in outcomes if one.late is not None),
        by_garments=_by(good, lambda one: str(one.garments)),
        by_priority=_by(good, lambda one: one.priority),
        server={name: spread(one.server[name] for one in good if name in one.server) for name in stages},
        bin_s=width,
        bins=_bins(outcomes, width, max(length, busy)),
    )


def _codes(outcomes: Sequence[ClientOutcome], end: str) -> dict[str, int]:
    return dict(Counter(one.code for one in outcomes if one.end == end and one.code).most_common())


def bin_width(length_s: float, count: int) -> float:
    """A round width in seconds: at most MOST_BINS bins, and WANTED_IN_A_BIN try-ons in the average one.

    Percentiles of fewer say little; but a run is cut into FEWEST_BINS at least, if a bin may last a second.
    """
    bins = min(MOST_BINS, max(FEWEST_BINS, count / WANTED_IN_A_BIN))
    for width in NICE_BINS_S:
        if length_s / width <= bins:
            return float(width)
    return math.ceil(length_s / MOST_BINS / 3600) * 3600.0


def _by(outcomes: Sequence[ClientOutcome], key: Callable[[ClientOutcome], str]) -> dict[str, Spread]:
    return {name: spread(one.latency for one in outcomes if key(one) == name) for name in sorted({*map(key, outcomes)})}


def _bins(outcomes: Sequence[ClientOutcome], width: float, length_s: float) -> list[Bin]:
    count = int(length_s // width) + 1 if outcomes else 0
    offered, succeeded = [0] * count, [0] * count
    latencies: list[list[float]] = [[] for _ in range(count)]
    ends: list[Counter[str]] = [Counter() for _ in range(count)]
    for one in outcomes:
        due = int(one.due_at // width)
        offered[due] += 1
        if one.end == "unfinished":
            continue
        ended = min(int(one.ended_at // width), count - 1)
        if one.end == "succeeded":
            succeeded[ended] += 1
            latencies[due].append(one.latency)
        elif one.end != "rejected":
            ends[ended][one.end] += 1
        for status, when, _ in one.rejections:
            ends[min(int((one.due_at + when) // width), count - 1)][f"rejected {status}"] += 1
    return [
        Bin(i * width, offered[i] / width, succeeded[i] / width, spread(latencies[i]), dict(ends[i]))
        for i in range(count)
    ]
