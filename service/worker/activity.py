"""What a worker tells of its work when it announces itself: its own metrics, small enough for the store."""

from __future__ import annotations

import time

from service.jobs.schemas import Activity
from service.metrics import STAGE_LATENCY, Metrics


def activity(metrics: Metrics, *, since: float, holding: int) -> Activity:
    """The metrics of a worker that became ready at `since` (Unix seconds) and holds `holding` jobs."""
    cumulative: dict[str, list[int]] = {}
    for sample in (sample for family in metrics.stage_latency.collect() for sample in family.samples):
        if sample.name == f"{STAGE_LATENCY}_bucket":
            cumulative.setdefault(sample.labels["stage"], []).append(int(sample.value))
    stages = {
        stage: tuple(count - before for before, count in zip([0, *counts], counts, strict=False))
        for stage, counts in cumulative.items()
    }
    (busy,) = (
        sample.value
        for family in metrics.busy_seconds.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )
    return Activity(at=time.time(), since=since, busy_s=round(busy, 3), holding=holding, stages=stages)
