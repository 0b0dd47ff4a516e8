"""One replay from its options to its files: offer traffic to a running service, judge what came back, write it down."""

from __future__ import annotations

import asyncio
import json
import platform
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.replay.client import Clients, Manners
from loadtests.replay.open_loop import OpenLoop, RunRecord
from loadtests.replay.probe import Probe, counted
from loadtests.replay.progress import show
from loadtests.replay.report import page
from loadtests.replay.summary import Summary, summarise
from loadtests.replay.verdict import Objectives, Verdict, judge, share_text, time_text
from loadtests.traffic.arrivals import Arrival
from loadtests.traffic.photos import Wardrobe

INTERRUPTED = 130


@dataclass(frozen=True)
class Target:
    """Where to send: the service's address, a key, the address of its metrics ("" for none), connections at once."""

    url: str
    key: str | None = None
    metrics_url: str = ""
    connections: int = 1000


@dataclass(frozen=True)
class Files:
    """What to write; None writes nothing. `rows` adds every single try-on to the JSON."""

    json: Path | None = None
    html: Path | None = None
    rows: bool = False
    title: str = "Load test"


async def offer(
    arrivals: Sequence[Arrival],
    target: Target,
    wardrobe: Wardrobe,
    manners: Manners,
    *,
    seed: int = 0,
    console: Console | None = None,
) -> RunRecord:
    """Run `arrivals` against `target`. Ctrl-C (SIGINT) and SIGTERM end it early and keep what there is."""
    probe = Probe(target.metrics_url) if target.metrics_url else None
    async with Clients(
        target.url, wardrobe, manners, key=target.key, connections=target.connections, seed=seed
    ) as clients:
        open_loop = OpenLoop(arrivals, clients, probe)
        loop = asyncio.get_running_loop()
        showing = asyncio.create_task(show(open_loop, probe, console)) if console else None
        with suppress(NotImplementedError, RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, open_loop.stop)
        try:
            return await open_loop.run()
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)


def as_json(
    record: RunRecord,
    summary: Summary,
    verdict: Verdict,
    objectives: Objectives,
    settings: Mapping[str, str],
    *,
    rows: bool,
) -> dict[str, Any]:
    """The run as JSON values: times in seconds, shares of 0 to 1; with `rows` every single try-on."""
    found: dict[str, Any] = {
        "began": record.began.isoformat(timespec="seconds"),
        "settings": dict(settings),
        **verdict.as_json(),
        "objectives": asdict(objectives),
        "summary": summary.as_json(),
        "service_counted": counted(record.readings),
        "service": [asdict(reading) for reading in record.readings],
    }
    if rows:
        found["rows"] = [outcome.row() for outcome in record.outcomes]
    return found


def exit_code(record: RunRecord, verdict: Verdict) -> int:
    """0 when every objective is met or none was set, 1 when not, 130 after Ctrl-C."""
    if record.interrupted:
        return INTERRUPTED
    return 1 if verdict.passed is False else 0


def table(summary: Summary, verdict: Verdict) -> Table:
    """The end of a run for a terminal."""
    latency = summary.latency
    out = Table.grid(padding=(0, 3))
    out.add_row("offered", f"{summary.offered:,} try-ons, {summary.offered_rate:.2f}/s")
    out.add_row("goodput", f"{summary.goodput:.2f}/s")
    out.add_row(
        "latency", f"p50 {time_text(latency.p50)}   p95 {time_text(latency.p95)}   p99 {time_text(latency.p99)}"
    )
    out.add_row("availability", share_text(summary.availability))
    out.add_row("rejected", share_text(summary.rejected_share))
    out.add_row("gave up", share_text(summary.gave_up_share))
    out.add_row("ends", ", ".join(f"{count:,} {end}" for end, count in summary.ends.items()) or "none")
    for end, codes in summary.codes.items():
        out.add_row("", ", ".join(f"{count:,} {end}: {code}" for code, count in codes.items()))
    out.add_row("generator late", f"p99 {time_text(summary.lateness.p99)}, worst {time_text(summary.lateness.max)}")
    for check in verdict.checks:
        mark = "[green]passed[/]" if check.passed else "[red]failed[/]"
        out.add_row(mark, f"{check.name}: {check.measured}, wanted {check.wanted}")
    return out


def main(
    arrivals: Sequence[Arrival],
    target: Target,
    wardrobe: Wardrobe,
    manners: Manners,
    objectives: Objectives,
    files: Files,
    *,
    seed: int,
    settings: Mapping[str, str],
    quiet: bool = False,
) -> int:
    """Run, report, write; returns the exit code. Raises OSError when a file cannot be written."""
    console = Console(highlight=False, quiet=quiet)
    for path in (files.json, files.html):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    told = dict(settings) | {"generator": f"Python {platform.python_version()}, {platform.machine()}"}
    record = asyncio.run(offer(arrivals, target, wardrobe, manners, seed=seed, console=console))
    summary = summarise(record)
    verdict = judge(summary, objectives)
    if files.json is not None:
        found = as_json(record, summary, verdict, objectives, told, rows=files.rows)
        files.json.write_text(json.dumps(found, indent=None if files.rows else 1) + "\n")
    if files.html is not None:
        files.html.write_text(page(files.title, record, summary, verdict, objectives, told), encoding="utf-8")
    console.print(table(summary, verdict))
    for warning in verdict.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    for path in (files.json, files.html):
        if path is not None:
            console.print(f"written        {path.absolute()}")
    console.print(f"verdict        {verdict.word}")
    return exit_code(record, verdict)
