"""One capacity question from its options to its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from rich.console import Console

from loadtests.capacity.fleet import SimulatedFleet
from loadtests.capacity.plan import Goal, NotEnough, mix_of, plan, sized
from loadtests.capacity.report import page, table
from loadtests.capacity.scale import Day, Scale, scale
from loadtests.capacity.service_times import (
    MAX_GARMENTS,
    CalibrationError,
    Scrape,
    ServiceTimes,
    from_metrics,
    from_table,
)
from loadtests.results_file import write_json
from loadtests.traffic.traffic import Traffic


@dataclass(frozen=True)
class Given:
    """The question: without `table` and `metrics` the execution times are those of the trace."""

    traffic: Traffic
    fleet: SimulatedFleet
    goal: Goal
    table: Path | None = None
    metrics: tuple[str, ...] = ()
    quiet_metrics: tuple[str, ...] = ()
    per_day: int | None = None
    peak: float = 3.0
    spare: float = 0.1
    cv: float = 1.0
    seed: int = 0


def main(
    given: Given,
    *,
    json_file: Path | None = None,
    html: Path | None = None,
    title: str = "Capacity",
    console: Console | None = None,
) -> int:
    """Answer `given`; 0 when a fleet was found, 1 when none is enough.

    Raises CalibrationError, ValueError or OSError with one line about what cannot be read.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    arrivals = given.traffic.arrivals()
    recorded = given.table is None and not given.metrics
    times = _recorded(given) if recorded else _times(given)
    try:
        with console.status("simulating") as status:
            found = plan(
                arrivals,
                times,
                given.fleet,
                given.goal,
                seed=given.seed,
                recorded=recorded,
                told=lambda row: status.update(f"{row.gpus} GPUs: p95 {row.p95_s:.2f} s, {row.unserved:.2%} unserved"),
            )
            larger = _scale(given, times, mix_of(arrivals)) if given.per_day else None
    except NotEnough as error:
        console.print(str(error))
        return 1
    console.print(table(found))
    told = {
        "traffic": given.traffic.sentence(),
        "engine seconds by garments": ", ".join(
            f"{number}: {times.mean([number]):.3g}" for number in range(1, MAX_GARMENTS + 1)
        )
        if not recorded
        else "as the trace recorded them",
        "seconds a batch shares": f"{times.fixed_s:.3g}",
        "around the engine": f"intake {times.intake_s:.3g} s, prepare {times.prepare_s:.3g} s, "
        f"encode and store {times.settle_s:.3g} s, between batches {times.turnaround_s:.3g} s",
        "CHANGEROOM_MAX_BACKLOG_S": f"{given.fleet.max_backlog_s:g}",
        "CHANGEROOM_MAX_IN_FLIGHT": f"{sized(given.fleet, found.gpus).max_in_flight} or more",
        "deadline": f"{given.fleet.deadline_s:g} s",
        "failures": f"one GPU every {given.fleet.mean_time_to_failure_s:g} s, back after {given.fleet.restart_s:g} s"
        if given.fleet.mean_time_to_failure_s
        else "none",
        "seed": str(given.seed),
    }
    if larger is not None:
        console.print("\n".join(larger.lines))
    if json_file is not None:
        answer = {"plan": found.as_json(), "assumed": told, "scale": asdict(larger) if larger else None}
        write_json(json_file, answer)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(title, found, arrivals, told, larger))
    return 0


def _times(given: Given) -> ServiceTimes:
    if given.table is not None:
        return from_table(given.table)
    quiet = Scrape.parse(*map(_text, given.quiet_metrics)) if given.quiet_metrics else None
    return from_metrics(Scrape.parse(*map(_text, given.metrics)), quiet)


def _recorded(given: Given) -> ServiceTimes:
    """Times for what the trace leaves out: the mean of what it has, and its spread."""
    own = [one.service_s for one in given.traffic.arrivals() if one.service_s]
    if not own:
        raise CalibrationError(f"{given.traffic.trace}: no execution times in it; give --times or --metrics")
    mean = sum(own) / len(own)
    return ServiceTimes(0.0, (mean,) * MAX_GARMENTS, tuple(value / mean for value in own), lead=0.0)


def _scale(given: Given, times: ServiceTimes, mix: dict[int, float]) -> Scale:
    percentile, bound = given.goal.latency_s[-1]
    day = Day(given.per_day or 0, given.peak, given.cv**2, given.spare)
    return scale(day, times, mix, bound, percentile / 100, fleet=given.fleet, seed=given.seed)


def _text(source: str) -> str:
    """The text of an address or a file. Raises CalibrationError or OSError."""
    if not source.startswith(("http://", "https://")):
        return Path(source).read_text()
    try:
        return httpx.get(source, timeout=10, trust_env=False).raise_for_status().text
    except httpx.HTTPError as error:
        raise CalibrationError(f"{source} cannot be read: {error}") from error
