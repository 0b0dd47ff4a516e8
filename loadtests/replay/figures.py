"""The figures of a run's report: each a plot with title and caption, or a sentence where there is nothing to plot."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtests.plots import Axis, Range, Rule, Series, bar_plot, legend, line_plot, range_plot
from loadtests.replay.open_loop import RunRecord
from loadtests.replay.summary import Summary
from loadtests.replay.verdict import Objectives, time_text

SECONDS = Axis("latency (seconds)", lambda value: f"{value:.3g} s" if value < 1000 else f"{value:.0f} s", least=0.05)
FAULTS = (
    ("rejected 503", "503: queue full or not ready", "yellow"),
    ("rejected 429", "429: over the caller's limits", "orange"),
    ("failed", "failed", "red"),
    ("expired", "expired", "pink"),
    ("refused", "refused (other 4xx, 5xx)", "teal"),
    ("unreachable", "unreachable", "violet"),
    ("gave up", "client gave up", "grey"),
)


def length_text(seconds: float) -> str:
    """`45 s`, `12 min 30 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _figure(name: str, title: str, plot: str, caption: str, entries: Sequence[Series] = ()) -> str:
    keys = legend(entries) if entries else ""
    return (
        f'<figure id="{name}"><h2>{escape(title)}</h2>{keys}{plot}<figcaption>{escape(caption)}</figcaption></figure>'
    )


def _empty(name: str, title: str, why: str) -> str:
    return f'<figure id="{name}"><h2>{escape(title)}</h2><p class="empty">{escape(why)}</p></figure>'


def _length(summary: Summary) -> float:
    return len(summary.bins) * summary.bin_s


def _slice(summary: Summary) -> str:
    return "second" if summary.bin_s == 1 else f"slice of {length_text(summary.bin_s)}"


def arrivals(summary: Summary) -> str:
    """Try-ons due and pictures finished over time."""
    if not summary.bins:
        return _empty("arrivals", "Arrivals", "No try-on came due.")
    at = [one.at + summary.bin_s / 2 for one in summary.bins]
    lines = [
        Series("offered (arrived)", "ink", [one.offered for one in summary.bins], dashed=True),
        Series("succeeded", "blue-2", [one.succeeded for one in summary.bins]),
    ]
    axis = Axis("try-ons per second", lambda value: f"{value:.3g}", least=0.1)
    caption = (
        f"Try-ons that came due, and pictures finished, in each {_slice(summary)}. Where the dashed line stays above "
        "the other, work is piling up, is rejected, or is given up."
    )
    return _figure(
        "arrivals",
        "Arrival rate",
        line_plot("Arrival rate over time", at, lines, axis, length_s=_length(summary)),
        caption,
        lines,
    )


def latency(summary: Summary, objectives: Objectives) -> str:
    """Percentiles of latency over time, with the objectives near them."""
    if not summary.latency.count:
        return _empty("latency", "Latency", "No try-on succeeded, so there is no latency to show.")
    at = [one.at + summary.bin_s / 2 for one in summary.bins]
    lines = [
        Series("p99", "blue-3", [one.latency.p99 for one in summary.bins]),
        Series("p95", "blue-2", [one.latency.p95 for one in summary.bins]),
        Series("p50", "blue-1", [one.latency.p50 for one in summary.bins]),
    ]
    rules = [
        Rule(value, f"objective: {name} at most {time_text(value)}")
        for name, value in (("p50", objectives.p50_s), ("p95", objectives.p95_s), ("p99", objectives.p99_s))
        if value is not None and value <= 4 * (summary.latency.max or 0.0)
    ]
    caption = (
        "From the moment a try-on was due to the moment its client knew it had succeeded, retries and waiting "
        f"included; percentiles of those due in each {_slice(summary)}. A gap: none of them succeeded."
    )
    plot = line_plot("Latency percentiles over time", at, lines, SECONDS, length_s=_length(summary), rules=rules)
    return _figure("latency", "Latency", plot, caption, lines)


def queue(record: RunRecord, summary: Summary) -> str:
    """Jobs waiting and running, as the service's /metrics told."""
    readings = [one for one in record.readings if "waiting" in one.gauges]
    if not readings:
        return _empty(
            "queue", "Queue depth", "The service's /metrics could not be read; give its address with --metrics-url."
        )
    at = [one.at for one in readings]
    lines = [
        Series("waiting", "orange", [one.gauges["waiting"] for one in readings]),
        Series("running", "blue-2", [one.gauges.get("running") for one in readings]),
    ]
    axis = Axis("jobs", lambda value: f"{value:g}", whole=True)
    plot = line_plot("Queue depth over time", at, lines, axis, length_s=max(_length(summary), at[-1]))
    caption = "Jobs accepted and not started (waiting) and jobs in the workers' hands (running), as /metrics told."
    return _figure("queue", "Queue depth", plot, caption, lines)


def faults(summary: Summary) -> str:
    """Rejections and ends other than success over time."""
    seen = [(key, name, colour) for key, name, colour in FAULTS if any(one.ends.get(key) for one in summary.bins)]
    if not seen:
        return _empty("faults", "Rejections and errors", "None: every try-on that came to an end succeeded at once.")
    layers = [Series(name, colour, [float(one.ends.get(key, 0)) for one in summary.bins]) for key, name, colour in seen]
    axis = Axis(f"in each {_slice(summary)}", lambda value: f"{value:g}", whole=True)
    plot = bar_plot(
        "Rejections and errors over time",
        [one.at for one in summary.bins],
        summary.bin_s,
        layers,
        axis,
        length_s=_length(summary),
    )
    caption = (
        "Every single 429 and 503 counts, also those a client overcame by trying again; other ends count once a try-on."
    )
    return _figure("faults", "Rejections and errors", plot, caption, layers)


def by_garments(summary: Summary) -> str:
    """Spread of latency by the number of garments."""
    ranges = [
        Range(
            f"{name} garment{'s' if name != '1' else ''}",
            found.count,
            found.p5 or 0,
            found.p50 or 0,
            found.p95 or 0,
            found.p99 or 0,
        )
        for name, found in summary.by_garments.items()
    ]
    if not ranges:
        return _empty("garments", "Latency by garment count", "No try-on succeeded.")
    plot = range_plot(
        "Latency by garment count", ranges, SECONDS, "garments in the try-on", ("p5", "p50", "p95", "p99")
    )
    counts = ", ".join(f"{one.count:,} with {one.name}" for one in ranges)
    caption = f"Box: from the median (dark stroke) to p95 (the number). Whiskers: p5 and p99. {counts}."
    return _figure("garments", "Latency by garment count", plot, caption)


def lateness(record: RunRecord, summary: Summary, objectives: Objectives) -> str:
    """How late the generator itself was, over time."""
    width = summary.bin_s
    worst: list[float | None] = [None] * len(summary.bins)
    for one in record.outcomes:
        if one.late is not None:
            index = int(one.due_at // width)
            worst[index] = max(worst[index] or 0.0, one.late * 1000)
    if not any(value is not None for value in worst):
        return _empty("lateness", "Lateness of the generator", "Nothing was sent.")
    limit = objectives.max_late_s * 1000
    rules = (
        [Rule(limit, f"p99 must stay below {limit:g} ms")] if max(filter(None, worst), default=0) > limit / 4 else []
    )
    axis = Axis("milliseconds", lambda value: f"{value:.3g}", least=1.0)
    lines = [Series("worst lateness", "violet", worst)]
    plot = line_plot(
        "Lateness of the load generator over time", [one.at + width / 2 for one in summary.bins], lines, axis,
        length_s=_length(summary), rules=rules,
    )  # fmt: skip
    caption = (
        f"How long after it was due the generator began to send, the worst in each {_slice(summary)} "
        f"(p99 of all {time_text(summary.lateness.p99)}). It is part of every latency here; were it large, the run "
        "would say more about this machine than about the service."
    )
    return _figure("lateness", "Lateness of the generator", plot, caption)
