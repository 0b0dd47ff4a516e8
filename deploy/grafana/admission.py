"""What waits, what is turned away, and what did not go as it should."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Row
from deploy.grafana.promql import (
    BACKLOG_ALERT_S,
    ENDED,
    GATEWAY,
    QUEUE_TIME_ALERT_S,
    REASON_COLOURS,
    SCALE_OUT_S,
    graph,
    orange,
    quantiles,
    red,
    refused,
    stored,
    summed,
)  # fmt: skip
from service import metrics

FULL = refused(more='reason=~"queue-full|uploads-full|decoder-busy|storage-full"')

QUEUE = Row(
    "Queue",
    graph(
        "Waiting and running",
        "short",
        {"waiting": "changeroom:waiting", "running": "changeroom:running"},
        "Accepted try-ons that have not ended.",
        decimals=0,
    ),
    graph(
        "Backlog",
        "s",
        {"backlog": "changeroom:backlog_seconds"},
        "What waits, over the speed of all ready workers. Production adds workers at 5 s; 30 s pages.",
        orange(SCALE_OUT_S),
        red(BACKLOG_ALERT_S),
    ),
    graph(
        "Acceptance to the start of work",
        "s",
        quantiles(metrics.QUEUE_TIME),
        "The upload's decoding included. p95 above 10 s pages.",
        red(QUEUE_TIME_ALERT_S),
    ),
)

ADMISSION = Row(
    "Admission",
    graph(
        "Started, ended, turned away",
        "reqps",
        {
            "started": summed(f"{metrics.QUEUE_TIME}_count"),
            "ended": f"sum({ENDED})",
            "turned away": f"{refused()} or vector(0)",
        },
        "In balance the first two are equal and the third is 0.",
        colours=(("started", "blue"), ("ended", "green"), ("turned away", "red")),
    ),
    graph(
        "Turned away, by reason",
        "reqps",
        {"{{reason}}": refused("reason")},
        "queue-full, uploads-full, decoder-busy and storage-full are ours; the other reasons are limits of one key.",
        stacked=True,
        colours=REASON_COLOURS,
    ),
    graph(
        "Share turned away for want of room",
        "percentunit",
        {"turned away": f"({FULL} / ({FULL} + on() sum({ENDED}))) or vector(0)"},
        "A full queue, or busy gateways: of all that ended or were turned away so. Above 5 % it pages.",
        red(0.05),
        top=1.0,
        colours=(("turned away", "orange"),),
    ),
)

AMISS = Row(
    "Not as it should be",
    graph(
        "Canceled, by phase",
        "reqps",
        {"{{phase}}": stored(metrics.CANCELED, "phase")},
        "By their owners: queued ones cost no engine time, running ones stop at the next step.",
        stacked=True,
    ),
    graph(
        "Past the deadline, leases lost",
        "short",
        {
            "past the deadline": f"max(increase({metrics.DEADLINE_EXCEEDED}{{{GATEWAY}}}[5m]))",
            "leases lost": f"max(increase({metrics.LEASE_LOST}{{{GATEWAY}}}[5m]))",
        },
        "Within 5 minutes. A lost lease is a worker that stopped answering in the middle of a job.",
    ),
    graph(
        "Dead letters since the store began",
        "short",
        {"{{reason}}": f"max by (reason) ({metrics.DEAD_LETTER}{{{GATEWAY}}})"},
        "Given up after every attempt failed. Each step up is a ticket.",
        colours=REASON_COLOURS,
        decimals=0,
    ),
)

DASHBOARD = Dashboard(
    "changeroom-queue",
    "Changeroom: queue and admission",
    "What waits, what is turned away, and what did not go as it should.",
    (QUEUE, ADMISSION, AMISS),
)
