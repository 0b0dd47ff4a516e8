"""From answers to the scores of a sample: four dimensions from 1 to 10, and their geometric mean.

Garment fidelity is the geometric mean of the items' scores, so that one garment left out cannot be bought by others;
items that another requested garment hides have none and are left out, and every item is kept. A sample has an overall
score only when all four dimensions have one: what is missing is missing, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine_build.judging.journal import Journal, Row
from engine_build.judging.prompts import PLACE, WORN

DIMENSIONS = ("identity", "garments", "background", "physics")
FIGURES = (*DIMENSIONS, "overall")
COMBINED = "garments: geometric mean of the items; overall: mean over samples of each sample's geometric mean of four"
PLAIN, SHAM = "as it is", "sham"
"""Variants of a result: itself, and itself encoded once more."""
HIDDEN, NOT_ASKED, NO_RESULT = "hidden", "not asked", "no result"


@dataclass(frozen=True)
class ItemScore:
    """One garment: its place among the references, and its score (None without one)."""

    category: str
    sub_style: str
    score: float | None


@dataclass(frozen=True)
class SampleScores:
    """What a judge said of one sample; a dimension is None where `missing` says why, by question."""

    id: str
    count: int
    items: tuple[ItemScore, ...]
    identity: float | None
    garments: float | None
    background: float | None
    physics: float | None
    background_kind: str | None
    limbs: str | None
    missing: tuple[tuple[str, str], ...]

    @property
    def overall(self) -> float | None:
        """Geometric mean of the four dimensions."""
        return geometric([self.identity, self.garments, self.background, self.physics])

    def figure(self, name: str) -> float | None:
        """One of FIGURES."""
        value: float | None = getattr(self, name)
        return value


def of_journal(journal: Journal, variant: str = PLAIN, repeat: int = 0) -> list[SampleScores]:
    """Scores of every sample of a journal, in the set's order."""
    return [_of_sample(journal, row, variant, repeat) for row in journal.samples.values()]


def exact_of(journal: Journal) -> dict[str, list[float]]:
    """Of a journal that knows them, the exact scores of every sample that has all four, by figure; else nothing."""
    found: dict[str, list[float]] = {}
    for name in journal.samples:
        forms = [_form(journal.answers.get((name, call, PLAIN, 0))) for call in (WORN, PLACE)]
        exact = {key: value for form in forms for key, value in form.get("exact", {}).items()}
        if set(exact) == set(DIMENSIONS):
            exact["overall"] = geometric(exact.values())
            for figure in FIGURES:
                found.setdefault(figure, []).append(exact[figure])
    return found


def geometric(values: Iterable[float | None]) -> float | None:
    """Geometric mean of positive values; None when one is None or there is none."""
    logs = []
    for value in values:
        if value is None:
            return None
        logs.append(math.log(value))
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def of_items(items: Sequence[float | None]) -> float | None:
    """Garment fidelity of a sample from its items; None when none of them could be seen."""
    return geometric([score for score in items if score is not None])


def _of_sample(journal: Journal, sample: Row, variant: str, repeat: int) -> SampleScores:
    name, references = sample["id"], sample["references"]
    worn, place = (journal.answers.get((name, call, variant, repeat)) for call in (WORN, PLACE))
    missing = [(call, _reason(journal, name, row)) for call, row in ((WORN, worn), (PLACE, place)) if not _form(row)]
    first, second = _form(worn), _form(place)
    scores = [item["score"] for item in first["garments"]] if first else [None] * len(references)
    fidelity = of_items(scores)
    if first and fidelity is None:
        missing.append((WORN, HIDDEN))
    return SampleScores(
        id=name,
        count=len(references),
        items=tuple(ItemScore(r["category"], r["sub_style"], s) for r, s in zip(references, scores, strict=True)),
        identity=first.get("identity"),
        garments=fidelity,
        background=second.get("background"),
        physics=second.get("physics"),
        background_kind=second.get("background_kind"),
        limbs=second.get("limbs"),
        missing=tuple(missing),
    )


def _form(row: Row | None) -> dict[str, Any]:
    form: dict[str, Any] = (row or {}).get("form") or {}
    return form


def _reason(journal: Journal, sample: str, row: Row | None) -> str:
    if sample in journal.absent:
        return journal.absent[sample]
    return NOT_ASKED if row is None else str(row["missing"])
