"""What the evidence is asked: pairs of measured networks compared seed by seed, so that a seed's luck cancels.

`isolate/32` names a stage and a way of sampling it, as in evidence.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Measured = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Figures of a network by its name and seed."""


@dataclass(frozen=True)
class ComparisonQuestion:
    """`figures` of network `of` against those of `against`."""

    asked: str
    of: str
    against: str
    figures: tuple[str, ...]


def questions(teacher_steps: int, before: str = "isolate") -> list[ComparisonQuestion]:
    """What isolation, reinforcement since stage `before`, guidance, distillation and their controls come to."""
    full = str(teacher_steps)
    scores = ("overall", "identity", "garment_fidelity", "background", "physics")
    looks = ("sharpness", "kid", "attribute_accuracy", "omission_rate", "diversity")
    return [
        ComparisonQuestion("what isolation costs", f"isolate/{full}", f"tryon/{full}", ("overall", "garment_fidelity")),
        ComparisonQuestion("what guidance does", f"nft/{full}-cfg", f"nft/{full}", (*scores, *looks)),
        ComparisonQuestion(
            "what reinforcement does at equal evaluations",
            f"nft/{full}",
            f"{before}/{full}",
            (*scores, "pattern_rare", "pattern_common", *looks),
        ),
        ComparisonQuestion("what reinforcement does, both in 4 steps", "nft/4", f"{before}/4", (*scores, *looks)),
        ComparisonQuestion("guidance in one pass", f"cfg-distill/{full}", f"nft/{full}-cfg", (*scores, *looks)),
        ComparisonQuestion("4 steps against the guided teacher", "dmd-4/4", f"nft/{full}-cfg", (*scores, *looks)),
        ComparisonQuestion("4 steps against the one-pass teacher", "dmd-4/4", f"cfg-distill/{full}", (*scores, *looks)),
        ComparisonQuestion("the whole recipe, both in 4 steps", "dmd-4/4", f"{before}/4", (*scores, *looks)),
        ComparisonQuestion(
            "4 steps, part of the way, against the guided teacher",
            "dmd-4-part/4",
            f"nft/{full}-cfg",
            (*scores, *looks),
        ),
        ComparisonQuestion(
            "4 steps, part of the way, against the one-pass teacher",
            "dmd-4-part/4",
            f"cfg-distill/{full}",
            (*scores, *looks),
        ),
        ComparisonQuestion(
            "4 steps, part of the way, against that teacher cut to 4",
            "dmd-4-part/4",
            "cfg-distill/4",
            (*scores, *looks),
        ),
        ComparisonQuestion("4 steps against that teacher cut to 4", "dmd-4/4", "cfg-distill/4", (*scores, *looks)),
        ComparisonQuestion("2 steps against that teacher cut to 2", "dmd-2/2", "cfg-distill/2", (*scores, *looks)),
        ComparisonQuestion("1 step against that teacher cut to 1", "dmd-1/1", "cfg-distill/1", (*scores, *looks)),
    ]


def compare(measured: Measured, teacher_steps: int, before: str = "isolate") -> list[dict[str, Any]]:
    """One row a question and figure that every part of is measured: values, difference and ratio over seeds."""
    rows = []
    for question in questions(teacher_steps, before):
        ours, theirs = measured.get(question.of, {}), measured.get(question.against, {})
        for figure in question.figures:
            pairs = [(figure_of(ours[s], figure), figure_of(theirs[s], figure)) for s in sorted(ours) if s in theirs]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                rows.append(
                    {
                        "asked": question.asked,
                        "of": question.of,
                        "against": question.against,
                        "figure": figure,
                        "seeds": len(known),
                        "values": [round(sum(column) / len(known), 4) for column in zip(*known, strict=True)],
                        "difference": spread([a - b for a, b in known]),
                        "ratio": spread([a / b for a, b in known]) if all(b > 0 for _, b in known) else None,
                    }
                )
    return rows


def figure_of(row: Mapping[str, Any], figure: str) -> float | None:
    """A figure of one measurement; `pattern_rare` and `pattern_common` stand in a table of their own."""
    value = row["patterns"][figure[8:]] if figure.startswith("pattern_") else row.get(figure)
    return None if value is None else float(value)


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and standard error; no error for a single value."""
    error = standard_error(values)
    return {
        "mean": round(sum(values) / len(values), 5),
        "standard_error": None if error != error else round(error, 5),
    }


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a mean; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    centre = sum(values) / len(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
