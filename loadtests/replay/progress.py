"""A run at a glance while it goes on, in a terminal."""

from __future__ import annotations

import asyncio
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtests.replay.open_loop import OpenLoop
from loadtests.replay.probe import Probe
from loadtests.replay.summary import spread
from loadtests.replay.verdict import time_text

RECENT_S = 10.0
REFRESH_S = 0.5
PLAIN_S = 10.0


async def show(open_loop: OpenLoop, probe: Probe | None, console: Console) -> None:
    """Redraw until canceled; without a terminal, one line every PLAIN_S."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_S)
            console.print("  ".join(f"{name} {value}" for name, value in rows(open_loop, probe)))
    with Live(_panel(open_loop, probe), console=console, refresh_per_second=4, transient=True) as live:
        while True:
            await asyncio.sleep(REFRESH_S)
            live.update(_panel(open_loop, probe))


def rows(open_loop: OpenLoop, probe: Probe | None) -> list[tuple[str, str]]:
    """What is worth knowing now: (name, value)."""
    now = open_loop.elapsed
    offered = open_loop.record.outcomes
    recent_ends = [one for one in reversed(open_loop.ended[-5000:]) if one.ended_at >= now - RECENT_S]
    due = sum(1 for one in reversed(offered[-5000:]) if one.due_at >= now - RECENT_S)
    good = [one for one in recent_ends if one.end == "succeeded"]
    span = min(max(now, 1.0), RECENT_S)
    latency = spread(one.latency for one in good)
    ends = Counter(one.end for one in open_loop.ended)
    lateness = spread(one.late for one in recent_ends if one.late is not None)
    found = [
        ("time", f"{now:.0f} of {open_loop.length_s:.0f} s"),
        ("due", f"{len(offered):,} of {open_loop.record.planned:,}"),
        ("in flight", f"{open_loop.in_flight:,}"),
        ("offered", f"{due / span:.2f}/s"),
        ("succeeded", f"{len(good) / span:.2f}/s"),
        ("p50", time_text(latency.p50)),
        ("p95", time_text(latency.p95)),
        ("ends", ", ".join(f"{count:,} {end}" for end, count in ends.most_common()) or "none yet"),
        ("generator late p99", time_text(lateness.p99)),
    ]
    if probe is not None and probe.readings:
        gauges = probe.readings[-1].gauges
        found.insert(3, ("service", f"{gauges.get('waiting', 0):.0f} waiting, {gauges.get('running', 0):.0f} running"))
    return found


def _panel(open_loop: OpenLoop, probe: Probe | None) -> Group:
    table = Table.grid(padding=(0, 3))
    for name, value in rows(open_loop, probe):
        table.add_row(Text(name, style="dim"), value)
    note = Text(f"rates and percentiles of the last {RECENT_S:.0f} s; Ctrl-C ends the run with a report", style="dim")
    length_s = open_loop.length_s
    bar = ProgressBar(total=max(length_s, 0.001), completed=min(open_loop.elapsed, length_s))
    return Group(bar, table, note)
