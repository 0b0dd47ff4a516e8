"""Where a try-on's time goes: queue, decode, text, VAE, denoise, encode."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.promql import graph, quantile, quantiles, summed
from service import metrics

MEAN_OF_ALL = (
    f"{summed(f'{metrics.STAGE_LATENCY}_sum', 'stage')}"
    f" / on() group_left() {summed(f'{metrics.REQUEST_LATENCY}_count')}"
)


def stage_panel(title: str, about: str, **stages: str) -> Panel:
    """Quantiles of one stage, or p50 and p95 of two; `stages` are names by the word for them in the legend."""
    found: list[Query] = []
    for word, name in stages.items():
        alone = len(stages) == 1
        shares = (0.5, 0.95, 0.99) if alone else (0.5, 0.95)
        found += quantiles(metrics.STAGE_LATENCY, f'stage="{name}"', shares, "" if alone else word)
    return graph(title, "s", found, about, height=7)


DASHBOARD = Dashboard(
    "changeroom-stages",
    "Changeroom: stages",
    "Where a try-on's time goes: queue, decode, text, VAE, denoise, encode.",
    (
        Row(
            "Where the time goes",
            graph(
                "Mean seconds a finished try-on, by stage",
                "s",
                {"{{stage}}": MEAN_OF_ALL},
                "The stages of a try-on follow one another, so their means add up.",
                stacked=True,
                width=12,
                height=9,
            ),
            graph(
                "p95 by stage",
                "s",
                {"{{stage}}": quantile(0.95, metrics.STAGE_LATENCY, "stage")},
                "The slow twentieth of each stage by itself; these do not add up.",
                width=12,
                height=9,
            ),
        ),
        Row(
            "Stage by stage",
            stage_panel("Queue", "Written by the gateway, not yet taken by a worker.", queue="queue"),
            stage_panel(
                "Decode",
                "In the gateway: reading and checking the upload. In the worker: fetching and opening it.",
                gateway="intake",
                worker="prepare",
            ),
            stage_panel("Text", "The instruction's embedding; next to nothing when it is cached.", text="text"),
            stage_panel(
                "VAE",
                "Person and garments to latents, latents to the picture.",
                encode="vae_encode",
                decode="vae_decode",
            ),
            stage_panel("Denoise", "All steps of the batch that the try-on was in.", denoise="denoise"),
            stage_panel(
                "Encode",
                "The picture to JPEG, WebP or PNG, and into the object store.",
                encode="encode",
                store="store",
            ),
        ),
    ),
)
