"""The report of a run as one HTML file: verdict, numbers, plots and tables, readable offline, light or dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from html import escape
from importlib.resources import files

from loadtests.replay import figures
from loadtests.replay.figures import length_text
from loadtests.replay.open_loop import RunRecord
from loadtests.replay.probe import counted
from loadtests.replay.summary import Spread, Summary
from loadtests.replay.verdict import Objectives, Verdict, share_text, time_text


def page(
    title: str,
    record: RunRecord,
    summary: Summary,
    verdict: Verdict,
    objectives: Objectives,
    settings: Mapping[str, str],
) -> str:
    """The whole file."""
    css = (files("loadtests.replay") / "report.css").read_text()
    parts = [
        _head(title, record, summary, verdict, settings),
        _checks(verdict),
        "<h2>Plots</h2>",
        figures.arrivals(summary),
        figures.latency(summary, objectives),
        figures.queue(record, summary),
        figures.faults(summary),
        figures.by_garments(summary),
        figures.lateness(record, summary, objectives),
        _tables(summary),
        _counts(record),
        _settings(settings),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{css}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(title: str, record: RunRecord, summary: Summary, verdict: Verdict, settings: Mapping[str, str]) -> str:
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
        f"began {_stamp(record.began)}, took {length_text(summary.wall_s)}.</p>{warnings}<ul class='tiles'>{items}</ul>"
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


def _counts(record: RunRecord) -> str:
    """What clients counted beside the service's own totals: what was lost or counted twice shows here."""
    service = counted(record.readings)
    if not service:
        return ""
    ends = Counter("canceled" if one.end == "gave up" else one.end for one in record.outcomes)
    ends["rejected"] = sum(len(one.rejections) for one in record.outcomes)
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
