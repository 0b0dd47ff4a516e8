"""The first dashboard to open: rate, errors, latency by garment count, and how fast the error budget goes."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.promql import (
    BACKLOG_ALERT_S,
    ENDED,
    OBJECTIVE_LATENCY_S,
    REASON_COLOURS,
    SCALE_OUT_S,
    graph,
    green,
    orange,
    quantile,
    quantiles,
    red,
    refused,
    stat,
    stored,
    summed,
)  # fmt: skip
from service import metrics

AVAILABILITY_BUDGET = 0.005
LATENCY_BUDGET = 0.05
STATUS_COLOURS = (("succeeded", "green"), ("failed", "red"), ("expired", "orange"), ("canceled", "blue"))
BURN_WINDOWS = ("5m", "1h", "6h", "3d")
BAD_ENDS = stored(metrics.REQUESTS_TOTAL, "status, reason", 'status=~"failed|expired"')
FIRING = 'count(ALERTS{alertname=~"Changeroom.+", alertstate="firing"}) or vector(0)'


def burn(ratio: str, budget: float) -> dict[str, str]:
    return {window: f"changeroom:{ratio}:rate{window} / {budget}" for window in BURN_WINDOWS}


NOW = Row(
    "Now",
    stat("Try-ons", "reqps", f"sum({ENDED})", "Ended a second, however they ended.", decimals=1),
    stat(
        "End well",
        "percentunit",
        "1 - changeroom:failed_ratio:rate5m",
        "Over 5 minutes; cancels and clients' own mistakes do not count. Objective: 99.5 %.",
        orange(0.985),
        green(0.995),
        base="red",
        decimals=1,
    ),
    stat(
        "p95 latency",
        "s",
        quantile(0.95, metrics.REQUEST_LATENCY),
        "Acceptance to finished picture. Objective: 95 % within 3 s.",
        red(OBJECTIVE_LATENCY_S),
        decimals=2,
    ),
    stat("Waiting", "short", "changeroom:waiting", "Accepted and not started.", decimals=0),
    stat(
        "Backlog",
        "s",
        "changeroom:backlog_seconds",
        "Waiting work over the speed of all ready workers.",
        orange(SCALE_OUT_S),
        red(BACKLOG_ALERT_S),
        decimals=1,
    ),
    stat(
        "Turned away",
        "reqps",
        f"{refused()} or vector(0)",
        "Refused a second, for any reason.",
        orange(0.001),
        decimals=1,
    ),
    stat(
        "Workers ready",
        "short",
        "changeroom:workers_ready",
        "Warm and claiming.",
        green(1),
        base="red",
        decimals=0,
    ),
    stat("Alerts", "short", FIRING, "Firing now; deploy/runbook.md has an entry for each.", red(1), decimals=0),
)

RATE = Row(
    "Rate and errors",
    graph(
        "Ended, by status",
        "reqps",
        {"{{status}}": f"sum by (status) ({ENDED})"},
        "Every accepted try-on ends in exactly one of these.",
        stacked=True,
        colours=STATUS_COLOURS,
    ),
    graph(
        "Failed and expired, by reason",
        "reqps",
        {"{{reason}}": f"sum by (reason) ({BAD_ENDS})"},
        "What did not end well.",
        stacked=True,
        colours=REASON_COLOURS,
    ),
    graph(
        "Turned away, by reason",
        "reqps",
        {"{{reason}}": refused("reason")},
        "Requests that never became a try-on.",
        stacked=True,
        colours=REASON_COLOURS,
    ),
)

LATENCY = Row(
    "Latency, from acceptance to the finished picture",
    graph(
        "Latency",
        "s",
        quantiles(metrics.REQUEST_LATENCY),
        "All finished try-ons. The line is the objective for p95.",
        red(OBJECTIVE_LATENCY_S),
        width=6,
    ),
    graph(
        "p95 by garment count",
        "s",
        {"{{garments}}": quantile(0.95, metrics.REQUEST_LATENCY, "garments")},
        "What each further garment costs.",
        width=6,
    ),
    graph(
        "Finished, by garment count",
        "reqps",
        {"{{garments}}": summed(f"{metrics.REQUEST_LATENCY}_count", "garments")},
        "The mix of what is asked for.",
        stacked=True,
        width=6,
    ),
    Panel(
        "Latency, distribution",
        "heatmap",
        "s",
        (Query(summed(f"{metrics.REQUEST_LATENCY}_bucket", "le"), "{{le}}"),),
        6,
        8,
        about="Finished try-ons a second in each latency bucket.",
    ),
)

BUDGET = Row(
    "Error budget: a burn rate of 1 uses it up in exactly 30 days; 14.4 and 6 page, 3 and 1 make a ticket",
    graph(
        "Burn rate: availability",
        "none",
        burn("failed_ratio", AVAILABILITY_BUDGET),
        "Objective: 99.5 % of try-ons end well.",
        orange(1),
        red(14.4),
        width=12,
        height=7,
    ),
    graph(
        "Burn rate: latency",
        "none",
        burn("slow_ratio", LATENCY_BUDGET),
        "Objective: 95 % of finished pictures within 3 s.",
        orange(1),
        red(14.4),
        width=12,
        height=7,
    ),
)

DASHBOARD = Dashboard(
    "changeroom-service",
    "Changeroom: service",
    "Rate, errors and latency of try-ons, and how fast the month's error budget goes.",
    (NOW, RATE, LATENCY, BUDGET),
)
