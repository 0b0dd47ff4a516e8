"""What a worker tells of its work when it announces itself: its own metrics, small enough for the store."""

from __future__ import annotations

import time

from prometheus_client import Counter, Histogram

from service.jobs.schemas import Activity
from service.metrics import LATENCY_BUCKETS, Metrics

Counts = tuple[int, ...]


def activity(metrics: Metrics, *, since: float, holding: int) -> Activity:
    """The metrics of a worker that became ready at `since` (Unix seconds) and holds `holding` jobs."""
    whole = _counts(metrics.request_latency, "garments").values()
    return Activity(
        at=time.time(),
        since=since,
        busy_s=round(_value(metrics.busy_seconds), 3),
        holding=holding,
        latency=tuple(map(sum, zip(*whole, strict=True))) or (0,) * (len(LATENCY_BUCKETS) + 1),
        stages=_counts(metrics.stage_latency, "stage"),
    )


def _value(counter: Counter) -> float:
    return next(
        sample.value for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")
    )


def _counts(histogram: Histogram, label: str) -> dict[str, Counts]:
    """By label, how many fell into each bucket alone."""
    cumulative: dict[str, list[int]] = {}
    for family in histogram.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                cumulative.setdefault(sample.labels[label], []).append(int(sample.value))
    return {
        name: tuple(count - before for before, count in zip([0, *counts[:-1]], counts, strict=True))
        for name, counts in cumulative.items()
    }
