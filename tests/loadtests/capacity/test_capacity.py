"""The plan, the arithmetic of a day, calibration from tables and metrics, and the command that joins them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from typer.testing import CliRunner

from loadtests.capacity.fleet import SimulatedFleet
from loadtests.capacity.plan import Goal, NotEnough, plan
from loadtests.capacity.scale import Day, scale
from loadtests.capacity.service_times import CalibrationError, Scrape, ServiceTimes, from_metrics, from_rows
from loadtests.traffic.arrivals import Asked, Mix, generated, steady
from service.cli import app
from service.metrics import Metrics

ONE = Asked(garments=Mix((1,), (1.0,)))
SECOND = ServiceTimes(0.0, (1.0,) * 6, lead=0.0)
GOAL = Goal(((95.0, 3.0),))


def test_the_smallest_fleet_keeps_the_goal_and_one_less_does_not() -> None:
    arrivals = generated(steady(5.0), 400.0, 3, asked=ONE)
    found = plan(arrivals, SECOND, SimulatedFleet(1, max_in_flight=0, max_jobs=1), GOAL)
    rows = {row.gpus: row for row in found.rows}
    assert found.chosen.keeps and found.chosen.p95_s <= 3.0
    assert not rows[found.gpus - 1].keeps
    assert 5 <= found.gpus <= 8
    assert found.offered_load == pytest.approx(5.0, rel=0.1)


def test_a_service_slower_than_the_goal_is_said_so() -> None:
    arrivals = generated(steady(1.0), 60.0, 3, asked=ONE)
    with pytest.raises(NotEnough, match="slower than the objective"):
        plan(arrivals, SECOND, SimulatedFleet(1, max_in_flight=0), Goal(((95.0, 0.5),)))


def test_failures_cost_gpus() -> None:
    arrivals = generated(steady(4.0), 300.0, 3, asked=ONE)
    fleet = SimulatedFleet(1, max_in_flight=0, max_jobs=1)
    broken = SimulatedFleet(1, max_in_flight=0, max_jobs=1, mean_time_to_failure_s=100.0, restart_s=100.0, lease_s=1.0)
    assert plan(arrivals, SECOND, broken, GOAL).gpus > plan(arrivals, SECOND, fleet, GOAL).gpus


def test_paper_and_simulation_agree_on_a_day() -> None:
    times = ServiceTimes(0.0, (0.5,) * 6, (0.6, 1.4), lead=0.0)
    found = scale(Day(2_000_000), times, {1: 1.0}, 1.0, fleet=SimulatedFleet(1, max_jobs=1))
    assert found.load == pytest.approx(2_000_000 / 86_400 * 3 * 0.5)
    assert found.load < found.needed <= found.with_spare
    assert found.simulated.p95_s <= 1.0
    assert found.simulated.utilisation == pytest.approx(found.utilisation, abs=0.04)
    with pytest.raises(NotEnough):
        scale(Day(2_000_000), times, {1: 1.0}, 0.5)


def test_a_table_gives_back_the_line_it_was_made_from() -> None:
    rows = [
        {"garments": garments, "batch": batch, "seconds": 0.4 + batch * (0.1 + 0.05 * garments)}
        for garments in (1, 3, 5)
        for batch in (1, 2, 4)
    ]
    times = from_rows(rows)
    assert times.fixed_s == pytest.approx(0.4, rel=1e-6)
    assert times.each_s == pytest.approx([0.15, 0.2, 0.25, 0.3, 0.35, 0.4], rel=1e-6)


def test_a_table_without_batches_shares_nothing_and_interpolates() -> None:
    times = from_rows([{"garments": "1", "seconds": "3.92"}, {"garments": "5", "seconds": "6.74"}])
    assert times.fixed_s == 0 and times.mean([3]) == pytest.approx(5.33)
    assert times.mean([6]) == pytest.approx(7.445)


@pytest.mark.parametrize("row", [{}, {"garments": 0, "seconds": 1}, {"garments": 1, "seconds": "quick"}])
def test_a_wrong_row_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(CalibrationError):
        from_rows([row])


def worker_metrics(batch: int, engine_s: float, count: int) -> str:
    """What a worker says after `count` batches of `batch` jobs of 1 garment and as many of 3, 0.2 s slower."""
    metrics = Metrics()
    for garments, extra in ((1, 0.0), (3, 0.2)):
        for _ in range(count):
            metrics.batch_requests.observe(batch)
            metrics.busy_seconds.inc(engine_s + batch * extra)
            for _ in range(batch):
                metrics.request_latency.labels(str(garments)).observe(1.0 + extra)
                metrics.stage_latency.labels("denoise").observe(engine_s + batch * extra)
                metrics.stage_latency.labels("prepare").observe(0.02)
                metrics.stage_latency.labels("encode").observe(0.03)
    return generate_latest(metrics.registry).decode()


def test_metrics_of_workers_give_times_by_garments_and_what_a_batch_shares() -> None:
    quiet = Scrape.parse(worker_metrics(1, 0.5 + 0.1, 40))
    busy = Scrape.parse(worker_metrics(4, 0.5 + 0.4, 40), worker_metrics(4, 0.5 + 0.4, 10))
    times = from_metrics(busy, quiet)
    assert times.fixed_s == pytest.approx(0.5, rel=0.02)
    assert times.each_s[2] - times.each_s[0] == pytest.approx(0.2, rel=0.02)
    assert times.each_s[0] == pytest.approx(0.1, rel=0.05)
    assert times.prepare_s == pytest.approx(0.02) and times.settle_s == pytest.approx(0.03)
    assert sum(times.spread) / len(times.spread) == pytest.approx(1.0)
    assert from_metrics(busy).fixed_s == 0
    with pytest.raises(CalibrationError):
        from_metrics(busy.since(busy))


def test_the_command_answers_with_table_json_and_plots(tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("# measured\ngarments,seconds\n1,0.4\n3,0.6\n")
    words = ["loadtest", "capacity", "--times", str(tmp_path / "times.csv"), "--rate", "4", "--duration", "2m"]
    words += [
        "--p95",
        "2s",
        "--scale",
        "1000000",
        "--json",
        str(tmp_path / "c.json"),
        "--html",
        str(tmp_path / "c.html"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "GPUs keep it: p95 at most 2 s" in result.output and "Allen-Cunneen" in result.output
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["plan"]["gpus"] == min(row["gpus"] for row in found["plan"]["rows"] if row["keeps"])
    assert found["scale"]["needed"] > found["scale"]["load"]
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") == 3 and "1,000,000 requests a day" in page


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--p95", "2s"], id="no times"),
        pytest.param(["--recorded", "--p95", "2s"], id="no trace"),
        pytest.param(["--metrics", "nowhere"], id="no objective"),
        pytest.param(["--metrics", "nowhere", "--p95", "soon"], id="no duration"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["loadtest", "capacity", *words]).exit_code == 2
