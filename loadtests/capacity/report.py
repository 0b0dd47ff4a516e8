"""A capacity plan for people: a table in the terminal and one HTML file with plots, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

import numpy as np

from loadtests.capacity.plan import CapacityPlan, CapacityRow
from loadtests.capacity.scale import Scale
from loadtests.plots import Axis, Column, Rule, Series, column_plot, legend, line_plot
from loadtests.replay.summary import bin_width
from loadtests.replay.verdict import share_text, time_text
from loadtests.traffic.arrivals import Arrival

HEADS = ("GPUs", "p50", "p95", "p99", "results/s", "refused", "expired, failed", "busy", "batch", "objective")


def cells(row: CapacityRow) -> tuple[str, ...]:
    """One fleet size as text, in the order of HEADS."""
    return (
        str(row.gpus),
        *(time_text(value) if value != float("inf") else "-" for value in (row.p50_s, row.p95_s, row.p99_s)),
        f"{row.throughput:.3g}",
        share_text(row.rejected),
        share_text(row.expired + row.failed),
        f"{row.utilisation:.0%}",
        f"{row.mean_batch:.2f}",
        "kept" if row.keeps else "missed",
    )


def traffic_line(plan: CapacityPlan) -> str:
    return (
        f"{plan.requests:,} requests in {plan.length_s / 3600:.2f} h: {plan.mean_rate:.3g}/s in the mean, "
        f"{plan.peak_minute_rate:.3g}/s in the busiest minute, {plan.mean_seconds:.3g} GPU seconds each, "
        f"{plan.offered_load:.3g} GPUs of work in the mean"
    )


def verdict_line(plan: CapacityPlan) -> str:
    return f"{plan.gpus} GPU{'s' if plan.gpus != 1 else ''} keep it: {plan.goal.text()}"


def table(plan: CapacityPlan) -> str:
    """The plan as aligned text, the chosen fleet marked."""
    rows = [HEADS, *(cells(row) for row in plan.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    marked = [
        line + ("  <" if index and plan.rows[index - 1].gpus == plan.gpus else "") for index, line in enumerate(lines)
    ]
    return "\n".join([traffic_line(plan), *marked, verdict_line(plan)])


def page(
    title: str, plan: CapacityPlan, arrivals: Sequence[Arrival], told: Mapping[str, str], scale: Scale | None
) -> str:
    """The whole file."""
    css = (files("loadtests.replay") / "report.css").read_text()
    parts = [_head(title, plan), _rates(arrivals), _latency(plan), _shares(plan), _numbers(plan)]
    if scale is not None:
        steps = "".join(f"<li>{escape(line)}</li>" for line in scale.lines)
        parts.append(f"<h2>{scale.requests_per_day:,} requests a day</h2><ol>{steps}</ol>")
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in told.items())
    parts.append(f"<h2>What was assumed</h2><dl>{items}</dl>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{css}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(title: str, plan: CapacityPlan) -> str:
    chosen = plan.chosen
    tiles = [
        ("GPUs", str(plan.gpus)),
        ("p95 latency", time_text(chosen.p95_s)),
        ("p99 latency", time_text(chosen.p99_s)),
        ("refused or unfinished", share_text(chosen.unserved)),
        ("busy", f"{chosen.utilisation:.0%}"),
        ("busiest minute", f"{plan.peak_minute_rate:.3g}/s"),
    ]
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in tiles)
    return (
        f'<h1>{escape(title)}</h1><p class="soft">{escape(traffic_line(plan))}. Simulated, seed {plan.seed}. '
        f"{escape(verdict_line(plan))}.</p><ul class='tiles'>{items}</ul>"
    )


def _rates(arrivals: Sequence[Arrival]) -> str:
    length = max(arrivals[-1].offset_s, 1.0)
    width = bin_width(length, len(arrivals))
    counts, edges = np.histogram([one.offset_s for one in arrivals], np.arange(0.0, length + width, width))
    rates = [float(count) / width for count in counts]
    lines = [Series("requests a second", "blue-2", rates)]
    middles = [float(edge) + width / 2 for edge in edges[:-1]]
    plot = line_plot("Arrival rate over time", middles, lines, Axis("requests a second", least=0.1), length_s=length)
    return f'<figure id="arrivals"><h2>Arrivals</h2>{plot}<figcaption>In slices of {width:g} s.</figcaption></figure>'


def _latency(plan: CapacityPlan) -> str:
    shown = [row for row in plan.rows if row.p95_s != float("inf")]
    layers = [
        Series("p50", "blue-1", [row.p50_s for row in shown]),
        Series("p95", "blue-2", [row.p95_s for row in shown]),
        Series("p99", "blue-3", [row.p99_s for row in shown]),
    ]
    rules = [Rule(bound, f"p{percentile:g} at most {bound:g} s") for percentile, bound in plan.goal.latency_s]
    axis = Axis("latency (seconds)", lambda value: f"{value:.3g} s", least=0.05)
    plot = column_plot("Latency by number of GPUs", _columns(plan, shown), layers, axis, "GPUs", rules=rules)
    return f'<figure id="latency"><h2>Latency by number of GPUs</h2>{legend(layers)}{plot}</figure>'


def _shares(plan: CapacityPlan) -> str:
    layers = [
        Series("busy", "green", [100 * row.utilisation for row in plan.rows]),
        Series("refused", "yellow", [100 * row.rejected for row in plan.rows]),
        Series("expired or failed", "red", [100 * (row.expired + row.failed) for row in plan.rows]),
    ]
    axis = Axis("percent", lambda value: f"{value:.3g}%", least=1.0)
    plot = column_plot("Utilisation and refusals by number of GPUs", _columns(plan, plan.rows), layers, axis, "GPUs")
    return f'<figure id="shares"><h2>Utilisation and refusals</h2>{legend(layers)}{plot}</figure>'


def _columns(plan: CapacityPlan, rows: Sequence[CapacityRow]) -> list[Column]:
    return [Column(str(row.gpus), row.gpus == plan.gpus) for row in rows]


def _numbers(plan: CapacityPlan) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells(row)) + "</tr>" for row in plan.rows)
    return (
        '<h2>Numbers</h2><div class="scroll"><table id="fleets">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
