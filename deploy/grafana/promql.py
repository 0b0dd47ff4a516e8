"""The PromQL of the panels, and short ways to make them.

How to add up, as in deploy/prometheus/rules.yaml: totals and gauges of the store read the same from every gateway, so
`max` over gateways and then `sum` over labels; histograms and counters of a worker, and refusals of a gateway, `sum`.
What must read 0 when nothing happened ends in `or vector(0)`.
"""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Limit, Panel, Query, lines
from service import metrics

GATEWAY = 'job="changeroom-gateway"'
WORKER = 'job="changeroom-worker"'
WINDOW = "[$__rate_interval]"

OBJECTIVE_LATENCY_S = 3.0
REASON_COLOURS = (
    ("engine-failed", "red"), ("worker-lost", "purple"), ("deadline-exceeded", "orange"), ("input-erased", "blue"),
    ("queue-full", "orange"), ("rate-limited", "yellow"), ("store-unavailable", "red"),
)  # fmt: skip
SCALE_OUT_S, BACKLOG_ALERT_S, QUEUE_TIME_ALERT_S = 5.0, 30.0, 10.0


def stored(metric: str, by: str, more: str = "") -> str:
    """The rate of a total of the store, by labels `by`; `more` is a further matcher."""
    return f"max by ({by}) (rate({_select(metric, GATEWAY, more)}{WINDOW}))"


def summed(metric: str, by: str = "", more: str = "", job: str = WORKER) -> str:
    """The rate of a process's own counter, over all processes of a job."""
    group = f" by ({by}) " if by else ""
    return f"sum{group}(rate({_select(metric, job, more)}{WINDOW}))"


def refused(by: str = "", more: str = "") -> str:
    """Requests turned away a second, over all gateways."""
    return summed(metrics.ADMISSION_REJECTED, by, more, GATEWAY)


def quantile(share: float, metric: str, by: str = "", more: str = "") -> str:
    """A quantile of a worker's histogram."""
    return f"histogram_quantile({share}, {summed(f'{metric}_bucket', f'le, {by}' if by else 'le', more)})"


def quantiles(
    metric: str, more: str = "", shares: tuple[float, ...] = (0.5, 0.95, 0.99), word: str = ""
) -> list[Query]:
    """One line a share: p50, p95, p99, with a word before it in the legend."""
    before = f"{word} " if word else ""
    return [Query(quantile(share, metric, "", more), f"{before}p{share * 100:.0f}") for share in shares]


def mean(metric: str) -> str:
    """The mean of a worker's histogram."""
    return f"{summed(f'{metric}_sum')} / {summed(f'{metric}_count')}"


def _select(metric: str, job: str, more: str) -> str:
    return f"{metric}{{{job}, {more}}}" if more else f"{metric}{{{job}}}"


ENDED = stored(metrics.REQUESTS_TOTAL, "status, reason")


def stat(title: str, unit: str, expr: str, about: str, *limits: Limit, **more: Any) -> Panel:
    """One number, coloured by its limits."""
    given = {"kind": "stat", "unit": unit, "queries": (Query(expr),), "width": 3, "height": 4} | more
    return Panel(title, about=about, limits=limits, **given)


def graph(
    title: str, unit: str, queries: dict[str, str] | list[Query], about: str, *limits: Limit, **more: Any
) -> Panel:
    """Lines over time: expressions by legend, or queries; limits are drawn as dashed lines."""
    found = lines(queries) if isinstance(queries, dict) else tuple(queries)
    given = {"kind": "timeseries", "unit": unit, "queries": found, "width": 8, "height": 8} | more
    return Panel(title, about=about, limits=limits, **given)


def red(value: float) -> Limit:
    return Limit(value, "red")


def orange(value: float) -> Limit:
    return Limit(value, "orange")


def green(value: float) -> Limit:
    return Limit(value, "green")
