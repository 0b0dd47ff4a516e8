"""What `changeroom top` makes of its readings: rates, shares, quantiles over the last minute."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from service.jobs.schemas import Activity, Backlog, WorkerInfo
from service.metrics import LATENCY_BUCKETS, STAGE_BUCKETS, Metrics
from service.top.frame import bar, seconds, sparkline
from service.top.history import WHOLE, WINDOW_S, History, quantile
from service.top.reading import Reading, scrape
from service.worker.activity import activity

NONE = (0,) * (len(LATENCY_BUCKETS) + 1)
START = 1_700_000_000.0


def counts(**by_bound: int) -> tuple[int, ...]:
    """Bucket counts of a stage from `le_0_5=3` or `more=1`."""
    bounds = [f"le_{bound:g}".replace(".", "_") for bound in STAGE_BUCKETS] + ["more"]
    assert set(by_bound) <= set(bounds)
    return tuple(by_bound.get(bound, 0) for bound in bounds)


def worker(activity: Activity | None, name: str = "w1") -> WorkerInfo:
    return WorkerInfo(
        id=name, model="nano", backend="torch", device="cpu", reference_attention="isolated", max_references=7,
        default_size=(72, 96), max_pixels=1, size_multiple=8, default_steps=4, max_steps=8, token_budget=1, note="",
        activity=activity,
    )  # fmt: skip


def done(at: float, busy_s: float = 0.0, **stages: tuple[int, ...]) -> Activity:
    return Activity(at=START + at, since=START, busy_s=busy_s, holding=1, latency=NONE, stages=stages)


def reading(at: float, *workers: WorkerInfo, totals: dict[str, int] | None = None, **more: object) -> Reading:
    seen = {"backlog": Backlog(waiting=1, running=1, in_flight=2, seconds=0.5), "refused": {}} | more
    return Reading(START + at, workers=workers, totals=totals or {}, **seen)  # type: ignore[arg-type]


def history(*readings: Reading) -> History:
    kept = History()
    for one in readings:
        kept.add(one)
    return kept


def test_a_worker_tells_its_metrics_bucket_by_bucket() -> None:
    metrics = Metrics()
    for value in (0.004, 0.04, 0.3, 0.31, 100):
        metrics.stage_latency.labels("denoise").observe(value)
    metrics.request_latency.labels("1").observe(0.9)
    metrics.request_latency.labels("6").observe(0.9)
    metrics.busy_seconds.inc(2.5)
    told = activity(metrics, since=START, holding=3)
    assert told.stages == {"denoise": counts(le_0_005=1, le_0_05=1, le_0_3=1, le_0_4=1, more=1)}
    assert [count for count in told.latency if count] == [2] and told.latency[LATENCY_BUCKETS.index(1.0)] == 2
    assert (told.busy_s, told.holding, told.since) == (2.5, 3, START)
    assert activity(Metrics(), since=START, holding=0).latency == NONE


def test_quantiles_lie_within_their_bucket() -> None:
    assert quantile(counts(le_0_5=10), 0.5, STAGE_BUCKETS) == pytest.approx(0.45)
    assert quantile(counts(le_0_5=10, le_2=10), 0.95, STAGE_BUCKETS) == pytest.approx(1.95)
    assert quantile(counts(le_0_005=10), 0.5, STAGE_BUCKETS) == pytest.approx(0.003)
    assert quantile(counts(more=1), 0.5, STAGE_BUCKETS) == STAGE_BUCKETS[-1]
    assert quantile(NONE, 0.95, LATENCY_BUCKETS) == 0.0


def test_rates_count_what_came_since_the_oldest_reading() -> None:
    kept = history(
        reading(0, totals={"requests|succeeded|": 10}, refused={"queue-full": 5}),
        reading(10, totals={"requests|succeeded|": 30, "requests|failed|a": 5, "requests|failed|b": 5}),
    )
    assert kept.ended() == {"succeeded": 2.0, "failed": 1.0}
    assert kept.total("requests") == {"succeeded|": 30, "failed|a": 5, "failed|b": 5}
    assert kept.refused() == {}
    kept.add(reading(20, totals={}, refused={"queue-full": 25}))
    assert kept.refused() == {"queue-full": 1.0}


def test_refusals_are_unknown_without_a_gateway() -> None:
    assert history(reading(0), reading(1, refused=None)).refused() is None


def test_a_store_that_began_anew_gives_no_negative_rate() -> None:
    kept = history(reading(0, totals={"requests|succeeded|": 10}), reading(10, totals={"requests|succeeded|": 1}))
    assert kept.ended() == {"succeeded": 0.0}


def test_readings_older_than_a_minute_are_forgotten() -> None:
    kept = history(*(reading(at) for at in range(0, 200, 5)))
    assert kept.span_s == WINDOW_S


def test_a_workers_share_is_of_the_window_and_else_of_its_life() -> None:
    kept = history(reading(100, worker(done(100, busy_s=40))))
    assert kept.busy(kept.now.workers[0]) == pytest.approx(0.4)
    kept.add(reading(110, worker(done(110, busy_s=49))))
    assert kept.busy(kept.now.workers[0]) == pytest.approx(0.9)
    assert kept.busy(worker(None)) is None


def test_stages_are_of_the_window_over_all_workers() -> None:
    before, after = counts(le_0_5=100), counts(le_0_5=100, le_2=10)
    other = worker(done(5, denoise=counts(le_2=10), text=counts(le_0_05=1)), "w2")
    kept = history(reading(0, worker(done(0, denoise=before))), reading(5, worker(done(5, denoise=after)), other))
    stages, old = kept.stages()
    assert [(stage.name, stage.count) for stage in stages] == [("text", 1), ("denoise", 20)] and not old
    assert 1.5 < stages[1].p50 < 2


def test_counts_of_a_release_with_other_buckets_are_left_out() -> None:
    older = worker(done(5, denoise=(1,) * (len(STAGE_BUCKETS) - 3)), "older")
    stages, _ = history(reading(5, older, worker(done(5, denoise=counts(le_2=3))))).stages()
    assert [(stage.name, stage.count) for stage in stages] == [("denoise", 3)]


def test_what_a_newer_worker_tells_beyond_our_knowledge_is_passed_over() -> None:
    told = worker(done(5, busy_s=1)).model_dump(mode="json")
    told |= {"mood": "fine", "activity": told["activity"] | {"naps": 3}}
    assert WorkerInfo.model_validate(told) == worker(done(5, busy_s=1))


def test_stages_are_of_all_time_when_nothing_finished_lately() -> None:
    same = worker(done(0, denoise=counts(le_0_5=3)))
    later = worker(done(5, denoise=counts(le_0_5=3)))
    stages, old = history(reading(0, same), reading(5, later)).stages()
    assert old and [(stage.name, stage.count) for stage in stages] == [("denoise", 3)]
    assert WHOLE not in [stage.name for stage in stages]


def test_a_gateways_metrics_are_read_back() -> None:
    metrics = Metrics()
    metrics.requests_waiting.set(3)
    metrics.backlog_seconds.set(1.5)
    metrics.requests.labels("failed", "engine-failed").inc(2)
    metrics.dead_letter.labels("engine-failed").inc()
    metrics.admission_rejected.labels("queue-full").inc(7)
    seen = scrape(generate_latest(metrics.registry).decode())
    assert seen.refused == {"queue-full": 7}
    assert seen.totals["requests|failed|engine-failed"] == 2 and seen.totals["dead_letter|engine-failed"] == 1
    assert seen.totals["lease_lost"] == 0
    assert seen.backlog is not None and (seen.backlog.waiting, seen.backlog.seconds) == (3, 1.5)


def test_small_words_of_the_frame() -> None:
    assert (seconds(0.0421), seconds(2.34), seconds(60.0)) == ("42 ms", "2.3 s", "> 60 s")
    assert sparkline([0, 1, 8]) == "▁▂█" and sparkline([0, 0]) == "▁▁" and sparkline([]) == ""
    assert bar(0.5, 4).plain == "━━╌╌" and bar(7.0, 2).plain == "━━"
