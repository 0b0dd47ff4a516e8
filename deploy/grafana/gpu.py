"""Workers, their batches, their memory, and what they did not have to compute again."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Row
from deploy.grafana.promql import WORKER, graph, mean, quantile, red, summed
from service import metrics

LOOKUPS = 'result=~"hit|miss"'
HITS = summed(metrics.CACHE_EVENTS, "cache", 'result="hit"')
ALLOCATED = f'{metrics.GPU_MEMORY}{{{WORKER}, kind="allocated"}}'
CARD = f'{metrics.GPU_MEMORY}{{{WORKER}, kind="total"}}'
RESERVED = f'{metrics.GPU_MEMORY}{{{WORKER}, kind="reserved"}}'

WORKERS = Row(
    "Workers",
    graph("Workers ready", "short", {"ready": "changeroom:workers_ready"}, "Warm and claiming.", decimals=0),
    graph(
        "Busy share of each worker",
        "percentunit",
        {"{{instance}}": summed(metrics.BUSY, "instance")},
        "Time in which the engine ran a batch. Near 100 % everywhere: add workers.",
        top=1.0,
    ),
    graph(
        "Engine seconds a finished try-on",
        "s",
        {"all workers": f"{summed(metrics.BUSY)} / {summed(f'{metrics.REQUEST_LATENCY}_count')}"},
        "What capacity is planned with; batching and caches bring it down.",
    ),
)

BATCHES = Row(
    "Batches",
    graph(
        "Try-ons a batch",
        "short",
        {"mean": mean(metrics.BATCH_REQUESTS), "p95": quantile(0.95, metrics.BATCH_REQUESTS)},
        "More than 1 only when several waited at once.",
    ),
    graph(
        "Tokens a batch",
        "short",
        {"mean": mean(metrics.BATCH_TOKENS), "p95": quantile(0.95, metrics.BATCH_TOKENS)},
        "Packed length, all try-ons of a batch together.",
    ),
    graph(
        "Batches, by worker",
        "reqps",
        {"{{instance}}": summed(f"{metrics.BATCH_REQUESTS}_count", "instance")},
        "One that stays at 0 beside busy ones is stuck.",
    ),
)

MEMORY = Row(
    "GPU memory (workers with a CUDA device only)",
    graph(
        "GPU memory allocated",
        "bytes",
        {"{{instance}}": ALLOCATED},
        "Held by tensors after the last batch. Should level off.",
        gpu_only=True,
        height=6,
    ),
    graph(
        "GPU memory reserved",
        "bytes",
        {"{{instance}}": RESERVED},
        "Held by the allocator, fragments included.",
        gpu_only=True,
        height=6,
    ),
    graph(
        "Share of the card reserved",
        "percentunit",
        {"{{instance}}": f"{RESERVED} / ignoring(kind) {CARD}"},
        "Above 92 % it is a ticket.",
        red(0.92),
        top=1.0,
        gpu_only=True,
        height=6,
    ),
)

CACHES = Row(
    "Caches",
    graph(
        "Hit ratio",
        "percentunit",
        {"{{cache}}": f"{HITS} / {summed(metrics.CACHE_EVENTS, 'cache', LOOKUPS)}"},
        "text: instructions; latents: pictures; reference_kv: keys and values of persons and garments.",
        top=1.0,
    ),
    graph(
        "Lookups",
        "reqps",
        {"{{cache}} {{result}}": summed(metrics.CACHE_EVENTS, "cache, result", LOOKUPS)},
        "Hits and misses a second.",
        stacked=True,
    ),
    graph(
        "Evictions",
        "reqps",
        {"{{cache}}": summed(metrics.CACHE_EVENTS, "cache", 'result="eviction"')},
        "Pushed out for want of room; with a falling hit ratio, raise CHANGEROOM_REFERENCE_CACHE_BYTES.",
    ),
)

DASHBOARD = Dashboard(
    "changeroom-gpu",
    "Changeroom: GPU and caches",
    "Workers, their batches, their memory, and what they did not have to compute again.",
    (WORKERS, BATCHES, MEMORY, CACHES),
)
