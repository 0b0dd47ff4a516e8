"""Scores of many samples as the figures of a report: of all of them, by category, by number of garments."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from engine_build.training.measure.scores import Scores
from engine_build.world.specs import Scene


def summary(samples: list[Scores], seconds: float | None, nfe: int) -> dict[str, float | int | None]:
    """Means over samples, and over garments where a figure is one a garment."""

    def mean(values: Iterable[float]) -> float | None:
        kept = [v for v in values if not math.isnan(v)]
        return round(sum(kept) / len(kept), 4) if kept else None

    return {
        "background_psnr": mean(s.background_psnr for s in samples),
        "head_psnr": mean(s.head_psnr for s in samples),
        "garment_psnr": mean(v for s in samples for v in s.garment_psnr),
        "retrieval_at_16": mean(float(v) for s in samples for v in s.retrieval),
        "attribute_accuracy": mean(v for s in samples for v in s.attributes),
        "attribute_accuracy_truth": mean(v for s in samples for v in s.attributes_truth),
        "omission_rate": mean(float(v) for s in samples for v in s.omitted),
        "layering_accuracy": mean(float(v) for s in samples for v in s.layering),
        "sharpness": mean(s.sharpness for s in samples),
        "identity": mean(s.identity for s in samples),
        "garment_fidelity": mean(s.garment_fidelity for s in samples),
        "background": mean(s.background for s in samples),
        "physics": mean(s.physics for s in samples),
        "overall": mean(s.overall for s in samples),
        "seconds_per_image": seconds,
        "nfe": nfe,
    }


def by_category(samples: list[Scores]) -> dict[str, dict[str, float]]:
    """PSNR and omission rate a category."""
    rows: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for sample in samples:
        for category, db, gone in zip(sample.categories, sample.garment_psnr, sample.omitted, strict=True):
            rows[category].append((db, gone))
    return {category: _losses(values) for category, values in sorted(rows.items())}


def by_count(samples: list[Scores], scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """PSNR and omission rate by the number of requested garments."""
    rows: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for sample, scene in zip(samples, scenes, strict=True):
        rows[str(len(scene.garments))] += zip(sample.garment_psnr, sample.omitted, strict=True)
    return {count: _losses(values) for count, values in sorted(rows.items()) if values}


def _losses(values: list[tuple[float, bool]]) -> dict[str, float]:
    return {
        "garments": len(values),
        "garment_psnr": round(sum(db for db, _ in values) / len(values), 3),
        "omission_rate": round(sum(gone for _, gone in values) / len(values), 4),
    }
