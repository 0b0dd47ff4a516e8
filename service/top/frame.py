"""A reading as a frame for the terminal."""

from __future__ import annotations

import time

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.jobs.schemas import WorkerInfo
from service.metrics import LATENCY_BUCKETS
from service.top.history import WHOLE, History

SILENT_S = 12.0
BACKLOG_HIGH_S, BACKLOG_ALERT_S = 5.0, 30.0
SPARKS = "▁▂▃▄▅▆▇█"
STATUS_COLOURS = {"succeeded": "green", "failed": "red", "expired": "yellow", "canceled": "blue"}
BAR = 12
WIDE = 96


def frame(history: History, sources: str) -> RenderableType:
    """Everything on one screen; `sources` says what is watched."""
    now = history.now
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    window = f"last {history.span_s:.0f} s" if history.span_s >= 0.5 else "one reading"
    head.add_row(
        Text.assemble(("changeroom top", "bold"), "  ", (sources, "dim")),
        Text(f"{time.strftime('%H:%M:%S', time.localtime(now.at))}  {window}", "dim"),
    )
    troubles = [Text(f"! {line}", "bold red") for line in now.troubles]
    boxes = Boxes(_queue(history), _ended(history), _refused(history), _amiss(history))
    return Group(head, *troubles, boxes, _workers(history), Text(""), _stages(history))


class Boxes:
    """Panels side by side, all as wide; two a line in a narrow terminal."""

    def __init__(self, *panels: Panel) -> None:
        self._panels = panels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = len(self._panels) if options.max_width >= WIDE else 2
        grid = Table.grid(expand=True)
        for _ in range(line):
            grid.add_column(ratio=1)
        for first in range(0, len(self._panels), line):
            grid.add_row(*self._panels[first : first + line])
        yield grid


def _box(title: str, rows: list[tuple[str, Text]], nothing: str = "none") -> Panel:
    inside: RenderableType = Text(nothing, "dim")
    if rows:
        table = Table.grid(expand=True, padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        for name, value in rows:
            table.add_row(name, value)
        inside = table
    return Panel(inside, title=title, title_align="left", height=7, border_style="bright_black")


def _queue(history: History) -> Panel:
    backlog = history.now.backlog
    if backlog is None:
        return _box("Queue", [], "not known")
    colour = "red" if backlog.seconds >= BACKLOG_ALERT_S else "yellow" if backlog.seconds >= BACKLOG_HIGH_S else "green"
    return _box(
        "Queue",
        [
            ("waiting", Text(str(backlog.waiting), "bold")),
            ("running", Text(str(backlog.running))),
            ("backlog", Text(f"{backlog.seconds:.1f} s", colour)),
            ("", Text(sparkline(history.waiting()[-16:]), "cyan")),
        ],
    )


def _ended(history: History) -> Panel:
    if history.now.totals is None:
        return _box("Try-ons ended", [], "not known")
    rates = history.ended()
    rows = [("all", Text(_rate(sum(rates.values())), "bold"))] if rates else []
    coloured = [(status, colour) for status, colour in STATUS_COLOURS.items() if status in rates]
    rows += [(status, Text(_rate(rates[status]), colour)) for status, colour in coloured]
    return _box("Try-ons ended", rows, "none yet")


def _refused(history: History) -> Panel:
    rates = history.refused()
    if rates is None:
        return _box("Turned away", [], "not known: no gateway")
    rows = sorted(rates.items(), key=lambda item: -item[1])
    return _box("Turned away", [(reason, Text(_rate(rate), "yellow" if rate else "dim")) for reason, rate in rows[:5]])


def _amiss(history: History) -> Panel:
    if history.now.totals is None:
        return _box("Since the start", [], "not known")
    letters = history.total("dead_letter")
    rows = [(f"dead: {reason}", Text(str(count), "red")) for reason, count in sorted(letters.items())[:3]]
    if not letters:
        rows = [("dead letters", Text("0", "green"))]
    rows.append(("expired", _count(history.total("deadline_exceeded"))))
    rows.append(("leases lost", _count(history.total("lease_lost"))))
    return _box("Since the start", rows)


def _count(totals: dict[str, int]) -> Text:
    count = sum(totals.values())
    return Text(str(count), "yellow" if count else "green")


def _workers(history: History) -> RenderableType:
    workers = history.now.workers
    if workers is None:
        return Text("Workers and stages are read from the store: give --redis-url or --data.", "dim")
    if not workers:
        return Text("No worker is ready.", "bold red")
    table = _table(f"Workers ready: {len(workers)}")
    for name in ("worker", "model", "device", "state"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", header_style="dim")
    table.add_column("holds", justify="right", header_style="dim")
    table.add_column("busy", no_wrap=True, header_style="dim")
    for worker in sorted(workers, key=lambda worker: worker.id):
        share = history.busy(worker)
        done = worker.activity
        busy = Text("-", "dim") if share is None else Text.assemble(bar(share), f" {share:4.0%}")
        holds = str(done.holding) if done is not None else "-"
        table.add_row(worker.id, worker.model, worker.device, _state(worker, history.now.at), holds, busy)
    return table


def _table(title: str) -> Table:
    return Table(box=None, expand=True, title=title, title_justify="left", title_style="bold")


def _state(worker: WorkerInfo, now: float) -> Text:
    if worker.activity is None:
        return Text("ready")
    if now - worker.activity.at > SILENT_S:
        return Text("silent", "bold red")
    return Text("working", "green") if worker.activity.holding else Text("idle", "dim")


def _stages(history: History) -> RenderableType:
    stages, old = history.stages()
    if not stages:
        return Text("")
    title = "Latency by stage" + (" (nothing finished lately: since the workers' start)" if old else "")
    table = _table(title)
    table.add_column("stage", no_wrap=True, header_style="dim")
    for name in ("p50", "p95", "jobs"):
        table.add_column(name, justify="right", no_wrap=True, header_style="dim")
    table.add_column("p95", no_wrap=True, header_style="dim", ratio=1)
    longest = max(stage.p95 for stage in stages)
    for stage in stages:
        style = "bold" if stage.name == WHOLE else ""
        shown = bar(stage.p95 / longest if longest else 0.0, 3 * BAR, " ")
        table.add_row(stage.name, seconds(stage.p50), seconds(stage.p95), str(stage.count), shown, style=style)
    return table


def seconds(value: float) -> str:
    """A quantile: milliseconds below one second; the histograms know nothing beyond their last bound."""
    if value >= LATENCY_BUCKETS[-1]:
        return f"> {LATENCY_BUCKETS[-1]:.0f} s"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def bar(share: float, width: int = BAR, rest: str = "╌") -> Text:
    """A share of 1 as a bar; `rest` fills what is left."""
    full = round(max(0.0, min(1.0, share)) * width)
    return Text.assemble(("━" * full, "cyan"), (rest * (width - full), "bright_black"))


def sparkline(values: list[int]) -> str:
    """Values as one line of blocks, the highest filling its place."""
    highest = max(values, default=0)
    return "".join(SPARKS[round(value / highest * (len(SPARKS) - 1)) if highest else 0] for value in values)


def _rate(value: float) -> str:
    return f"{value:.2f}/s" if value < 10 else f"{value:.0f}/s"
