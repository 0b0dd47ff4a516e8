"""The report of a run as one HTML file: verdict, numbers, plots and tables, readable offline, light or dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files

from loadtests.plots import Axis, Range, Rule, Series, bar_plot, legend, line_plot, range_plot
from loadtests.probe import counted
from loadtests.runner import Ledger
from loadtests.summary import Spread, Summary
from loadtests.verdict import Objectives, Verdict, share_text, time_text

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


def page(
    title: str,
    ledger: Ledger,
    summary: Summary,
    verdict: Verdict,
    objectives: Objectives,
    settings: Mapping[str, str],
) -> str:
    """The whole file."""
    css = (files("loadtests") / "report.css").read_text()
    parts = [
        _head(title, ledger, summary, verdict, settings),
        _checks(verdict),
        "<h2>Plots</h2>",
        _arrivals(summary),
        _latency(summary, objectives),
        _queue(ledger, summary),
        _faults(summary),
        _by_garments(summary),
        _lateness(ledger, summary, objectives),
        _tables(summary),
        _counts(ledger),
        _settings(settings),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{css}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
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


def _head(title: str, ledger: Ledger, summary: Summary, verdict: Verdict, settings: Mapping[str, str]) -> str:
    latency = summary.latency
    tiles = [
        ("offered", f"{summary.offered_rate:.2f}/s"),
        ("goodput", f"{summary.goodput:.2f}/s"),
        ("p50 latency", time_text(latency.p50)),
        ("p95 latency", time_text(latency.p95)),
        ("p99 latency", time_text(latency.p99)),
        ("availability", share_text(summary.availability)),
        ("rejected", share_text(summary.rejected_share)),
        ("gave up", share_text(summary.gave_up_share)),
    ]
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in tiles)
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in verdict.warnings)
    return (
        f'<h1>{escape(title)} <span class="verdict {verdict.word.split()[0]}">{escape(verdict.word)}</span></h1>'
        f'<p class="soft">{summary.offered:,} try-ons within {length_text(summary.length_s)}, open loop, '
        f"{escape(settings.get('arrivals', ''))}, to {escape(settings.get('url', ''))}; "
        f"began {_stamp(ledger.began)}, took {length_text(summary.wall_s)}.</p>{warnings}<ul class='tiles'>{items}</ul>"
    )


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _checks(verdict: Verdict) -> str:
    rows = [
        (
            escape(check.name),
            escape(check.wanted),
            escape(check.measured),
            f'<td class="{"passed" if check.passed else "failed"}">{"passed" if check.passed else "failed"}</td>',
        )
        for check in verdict.checks
    ]
    if not rows:
        return ""
    body = "".join(f"<tr><td>{a}</td><td>{b}</td><td>{c}</td>{d}</tr>" for a, b, c, d in rows)
    return (
        '<h2>Objectives</h2><div class="scroll"><table><thead><tr><th>objective</th><th>wanted</th><th>measured</th>'
        f"<th>verdict</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


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


def _arrivals(summary: Summary) -> str:
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


def _latency(summary: Summary, objectives: Objectives) -> str:
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


def _queue(ledger: Ledger, summary: Summary) -> str:
    readings = [one for one in ledger.readings if "waiting" in one.gauges]
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


def _faults(summary: Summary) -> str:
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


def _by_garments(summary: Summary) -> str:
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


def _lateness(ledger: Ledger, summary: Summary, objectives: Objectives) -> str:
    width = summary.bin_s
    worst: list[float | None] = [None] * len(summary.bins)
    for one in ledger.outcomes:
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


def _tables(summary: Summary) -> str:
    spreads: list[tuple[str, Spread]] = [("latency, all", summary.latency)]
    spreads += [(f"latency, {name} garment{'s' if name != '1' else ''}", s) for name, s in summary.by_garments.items()]
    if len(summary.by_priority) > 1:
        spreads += [(f"latency, priority {name}", s) for name, s in summary.by_priority.items()]
    spreads += [
        ("time to acceptance (202)", summary.accepted),
        ("time to a rejection, from its sending", summary.time_to_reject),
        ("reading the picture afterwards", summary.download),
        ("lateness of the generator", summary.lateness),
    ]
    spreads += [(f"the service's own: {name}", s) for name, s in summary.server.items()]
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{s.count:,}</td>"
        + "".join(f"<td>{escape(time_text(value))}</td>" for value in (s.p50, s.p90, s.p95, s.p99, s.p999, s.max))
        + "</tr>"
        for name, s in spreads
        if s.count
    )
    total = max(sum(summary.ends.values()), 1)
    counts = []
    for end, count in summary.ends.items():
        counts.append(("", end, count))
        counts += [("code", code, part) for code, part in summary.codes.get(end, {}).items()]
    ends = "".join(
        f'<tr class="{kind}"><td>{escape(name)}</td><td>{count:,}</td><td>{share_text(count / total)}</td></tr>'
        for kind, name, count in counts
    )
    return (
        '<h2>Numbers</h2><div class="scroll"><table id="times"><thead><tr><th>time</th><th>count</th><th>p50</th>'
        f"<th>p90</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th></tr></thead><tbody>{body}</tbody></table></div>"
        '<h2>Ends</h2><div class="scroll"><table id="ends"><thead><tr><th>end, and its code</th><th>try-ons</th>'
        f"<th>share</th></tr></thead><tbody>{ends}</tbody></table></div>"
    )


def _counts(ledger: Ledger) -> str:
    """The client's ledger beside the service's own totals: what was lost or counted twice shows here."""
    service = counted(ledger.readings)
    if not service:
        return ""
    ends = Counter("canceled" if one.end == "gave up" else one.end for one in ledger.outcomes)
    ends["rejected"] = sum(len(one.rejections) for one in ledger.outcomes)
    rows = "".join(
        f"<tr><td>{name}</td><td>{ends[name]:,}</td><td>{service.get(name, 0):,}</td></tr>"
        for name in ("succeeded", "failed", "expired", "canceled", "rejected")
        if ends[name] or service.get(name)
    )
    return (
        '<h2>Counted on both sides</h2><div class="scroll"><table id="counts"><thead><tr><th>end</th>'
        f"<th>by the clients</th><th>by the service</th></tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="soft">Equal when nobody else used the service, no job outlived the run and no client left before '
        "its 202. Rejections count every attempt; the service counts those of its admission.</p>"
    )


def _settings(settings: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in settings.items())
    return (
        f"<h2>How it was run</h2><dl>{items}</dl>"
        '<p class="soft">Open loop: a try-on starts when it is due, whatever became of those before. Availability is '
        "succeeded over succeeded, failed, expired, refused and unreachable; try-ons the service rejected with 429 or "
        "503 and those whose client gave up have shares of their own.</p>"
    )
