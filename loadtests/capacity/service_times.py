"""How long one GPU takes for a batch, as measured: from a table or from what workers tell Prometheus.

The engine's time for a batch is `fixed + sum of each[garments]`, spread by observed ratios. Around it lie the
times that add to a request's latency and keep no engine busy: intake in the gateway, preparing pictures in the
worker, encoding and storing the result.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import BATCH_REQUESTS, BUSY, REQUEST_LATENCY, STAGE_LATENCY

MAX_GARMENTS = 6
AROUND = ("intake", "queue", "prepare", "encode", "store")
SPREAD_POINTS = 200
MIN_BATCH_DIFFERENCE = 0.3


class CalibrationError(ValueError):
    """Measurements that do not say how long a try-on takes; the message is one line."""


@dataclass(frozen=True)
class ServiceTimes:
    """Seconds of every stage; `each_s[g - 1]` is what a request of g garments adds to its batch.

    `spread` are ratios to the mean, one drawn per batch; their mean is 1. `turnaround_s` is the time an engine
    with work waiting stands idle between two batches. `lead` is the last part of a batch (0 to 1) during
    which its worker already holds and prepares the next one.
    """

    fixed_s: float
    each_s: tuple[float, ...]
    spread: tuple[float, ...] = (1.0,)
    intake_s: float = 0.0
    prepare_s: float = 0.0
    settle_s: float = 0.0
    turnaround_s: float = 0.0
    lead: float = 0.25

    def __post_init__(self) -> None:
        if len(self.each_s) != MAX_GARMENTS:
            raise CalibrationError(f"{MAX_GARMENTS} times are needed, one for each number of garments")
        if self.fixed_s < 0 or min(self.each_s) < 0 or self.fixed_s + min(self.each_s) <= 0:
            raise CalibrationError("an engine time must be above zero")

    def mean(self, garments: Sequence[int]) -> float:
        """Mean engine seconds of one batch of requests with these numbers of garments."""
        return self.fixed_s + sum(self.each_s[number - 1] for number in garments)

    def moments(self, mix: Mapping[int, float]) -> tuple[float, float]:
        """Mean seconds and squared coefficient of variation of a request that runs alone, over a mix of garments."""
        weights = np.array(list(mix.values()))
        means = np.array([self.mean([number]) for number in mix])
        ratios = np.array(self.spread)
        mean = float(np.average(means, weights=weights))
        second = float(np.average(means**2, weights=weights) * np.mean(ratios**2))
        return mean, second / mean**2 - 1.0


def from_rows(rows: Iterable[Mapping[str, object]], **around: float) -> ServiceTimes:
    """Times from observations with `garments`, `seconds` and, where known, `batch` (requests in the batch, all
    alike). Garment counts that were not measured are interpolated, or carried on at the last slope.

    Raises CalibrationError for rows that are not numbers or for none at all.
    """
    observed: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        try:
            garments, seconds = int(str(row["garments"])), float(str(row["seconds"]))
            batch = int(str(row.get("batch") or 1))
        except (KeyError, ValueError) as error:
            raise CalibrationError(f"a row needs the numbers garments and seconds: {dict(row)!r}") from error
        if not (1 <= garments <= MAX_GARMENTS and seconds > 0 and batch >= 1):
            raise CalibrationError(f"out of range: {dict(row)!r}")
        observed[garments, batch].append(seconds)
    if not observed:
        raise CalibrationError("the table has no rows")
    fixed, known = _fit({key: fmean(values) for key, values in observed.items()})
    each = tuple(max(0.0, _line(known, number)) for number in range(1, MAX_GARMENTS + 1))
    ratios = [value / fmean(values) for values in observed.values() for value in values]
    return ServiceTimes(fixed, each, tuple(ratios), **around)


def from_table(path: Path, **around: float) -> ServiceTimes:
    """Times from a CSV file with a header, or a JSON list of objects (see `from_rows`).

    Raises CalibrationError or OSError.
    """
    text = path.read_text()
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise CalibrationError(f"{path} is not JSON: {error}") from error
        rows = rows["rows"] if isinstance(rows, dict) and "rows" in rows else rows
        if not isinstance(rows, list):
            raise CalibrationError(f"{path}: a list of rows is needed")
        return from_rows(rows, **around)
    return from_rows(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")), **around)


def _fit(means: Mapping[tuple[int, int], float]) -> tuple[float, dict[int, float]]:
    """Least squares of `seconds = fixed + batch * each[garments]`; without batches nothing is shared."""
    numbers = sorted({garments for garments, _ in means})
    if len({batch for _, batch in means}) == 1:
        return 0.0, {garments: seconds / batch for (garments, batch), seconds in means.items()}
    left = np.array([[1.0] + [batch * (number == garments) for number in numbers] for garments, batch in means])
    right = np.array(list(means.values()))
    weights = 1.0 / right
    found, *_ = np.linalg.lstsq(left * weights[:, None], right * weights, rcond=None)
    fixed = min(max(0.0, float(found[0])), min(means.values()))
    return fixed, {
        number: fmean((s - fixed) / batch for (garments, batch), s in means.items() if garments == number)
        for number in numbers
    }


def _line(known: Mapping[int, float], number: int) -> float:
    numbers = sorted(known)
    if len(numbers) == 1:
        return known[numbers[0]]
    for low, high in pairwise(numbers):
        if number <= high or high == numbers[-1]:
            slope = (known[high] - known[low]) / (high - low)
            return known[low] + slope * (number - low)
    raise AssertionError("two known numbers make a line")


@dataclass(frozen=True)
class Scrape:
    """What /metrics of the workers said, added up: histograms by series, as (sum, count, cumulative buckets)."""

    sums: Mapping[tuple[str, str], float]
    counts: Mapping[tuple[str, str], float]
    buckets: Mapping[tuple[str, str, float], float]
    busy_s: float = 0.0

    @classmethod
    def parse(cls, *texts: str) -> Scrape:
        """Read the Prometheus text of one or more workers."""
        sums: dict[tuple[str, str], float] = defaultdict(float)
        counts: dict[tuple[str, str], float] = defaultdict(float)
        buckets: dict[tuple[str, str, float], float] = defaultdict(float)
        busy = 0.0
        for text in texts:
            for family in text_string_to_metric_families(text):
                if family.name == BUSY.removesuffix("_total"):
                    busy += sum(sample.value for sample in family.samples if sample.name == BUSY)
                if family.name not in (STAGE_LATENCY, REQUEST_LATENCY, BATCH_REQUESTS):
                    continue
                for sample in family.samples:
                    label = sample.labels.get("stage") or sample.labels.get("garments") or ""
                    if sample.name.endswith("_sum"):
                        sums[family.name, label] += sample.value
                    elif sample.name.endswith("_count"):
                        counts[family.name, label] += sample.value
                    elif sample.name.endswith("_bucket"):
                        buckets[family.name, label, float(sample.labels["le"])] += sample.value
        return cls(dict(sums), dict(counts), dict(buckets), busy)

    def since(self, before: Scrape) -> Scrape:
        """Only what was observed after `before`."""
        return Scrape(
            {key: value - before.sums.get(key, 0.0) for key, value in self.sums.items()},
            {key: value - before.counts.get(key, 0.0) for key, value in self.counts.items()},
            {key: value - before.buckets.get(key, 0.0) for key, value in self.buckets.items()},
            self.busy_s - before.busy_s,
        )

    def mean(self, family: str, label: str = "") -> float:
        """Mean of one series, 0 when it has no observation."""
        count = self.counts.get((family, label), 0.0)
        return self.sums.get((family, label), 0.0) / count if count else 0.0

    def labels(self, family: str) -> list[str]:
        return [label for name, label in self.counts if name == family and self.counts[name, label] > 0]

    def ratios(self, family: str, label: str) -> tuple[float, ...]:
        """Evenly spaced quantiles of one histogram over their mean, linear inside each bucket."""
        edges = sorted(
            (edge, count) for (name, series, edge), count in self.buckets.items() if name == family and series == label
        )
        total = self.counts.get((family, label), 0.0)
        finite = [(edge, count) for edge, count in edges if edge != float("inf")]
        if total < 2 or not finite:
            return (1.0,)
        quantiles = (np.arange(SPREAD_POINTS) + 0.5) / SPREAD_POINTS * total
        counts = np.array([0.0, *(count for _, count in finite)])
        points = np.array([0.0, *(edge for edge, _ in finite)])
        values = np.interp(quantiles, counts, points)
        return tuple(float(value) for value in values / values.mean())


def from_metrics(
    scrape: Scrape, quiet: Scrape | None = None, *, turnaround_s: float = 0.0, lead: float = 0.25
) -> ServiceTimes:
    """Times from the workers' histograms (`Scrape.since` leaves the warm-up out).

    A batch takes the engine's busy seconds over the number of batches. With a second scrape at a `quiet` load,
    where batches are smaller, the part that a batch shares is told from what each request adds; without one
    nothing is taken as shared. The difference between garment counts is that of their mean latencies (quiet ones
    where given), because the wait before the engine does not depend on the count.
    Raises CalibrationError when no try-on has finished.
    """
    stages = [stage for stage in scrape.labels(STAGE_LATENCY) if stage not in AROUND]
    batches, requests = scrape.counts.get((BATCH_REQUESTS, ""), 0.0), scrape.sums.get((BATCH_REQUESTS, ""), 0.0)
    if not stages or not batches or not scrape.busy_s:
        raise CalibrationError("the metrics hold no finished try-on; scrape the workers (--metrics-port) under load")
    fixed = _shared(scrape, quiet) if quiet is not None else 0.0
    mean = scrape.busy_s / requests - fixed * batches / requests
    longest = max(stages, key=lambda stage: scrape.mean(STAGE_LATENCY, stage))
    calm = quiet if quiet is not None and quiet.labels(REQUEST_LATENCY) else scrape
    numbers = {int(label): calm.mean(REQUEST_LATENCY, label) for label in calm.labels(REQUEST_LATENCY)}
    seen = {number: calm.counts[REQUEST_LATENCY, str(number)] for number in numbers}
    overall = sum(numbers[n] * seen[n] for n in numbers) / sum(seen.values()) if numbers else 0.0
    known = {number: mean + latency - overall for number, latency in numbers.items()} or {1: mean}
    return ServiceTimes(
        fixed_s=fixed,
        each_s=tuple(max(0.1 * mean, _line(known, number)) for number in range(1, MAX_GARMENTS + 1)),
        spread=scrape.ratios(STAGE_LATENCY, longest),
        intake_s=scrape.mean(STAGE_LATENCY, "intake"),
        prepare_s=scrape.mean(STAGE_LATENCY, "prepare"),
        settle_s=scrape.mean(STAGE_LATENCY, "encode") + scrape.mean(STAGE_LATENCY, "store"),
        turnaround_s=turnaround_s,
        lead=lead,
    )


def _shared(busy: Scrape, quiet: Scrape) -> float:
    """Seconds of a batch that do not grow with it, from the mean batch at two loads; 0 when those are alike."""
    time_of, size_of = [], []
    for scrape in (busy, quiet):
        batches = scrape.counts.get((BATCH_REQUESTS, ""), 0.0)
        if not batches:
            return 0.0
        time_of.append(scrape.busy_s / batches)
        size_of.append(scrape.sums[BATCH_REQUESTS, ""] / batches)
    if abs(size_of[0] - size_of[1]) < MIN_BATCH_DIFFERENCE:
        return 0.0
    each = (time_of[0] - time_of[1]) / (size_of[0] - size_of[1])
    return min(max(0.0, time_of[1] - each * size_of[1]), 0.95 * min(time_of))
