"""The tables of a report: means with intervals, and beside every number how much of what was asked it covers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine_build.judging.scores import FIGURES, SampleScores
from engine_build.judging.statistics import interval


@dataclass(frozen=True)
class Figure:
    """A mean over `n` of the `of` that were asked for, with its bootstrap interval; no mean of nothing."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    of: int

    def as_dict(self) -> dict[str, float | int | None]:
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        rounded = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
        return {**rounded, "n": self.n, "of": self.of, "coverage": round(self.n / self.of, 4) if self.of else None}

    def text(self, digits: int = 3) -> str:
        """Mean and half the interval's width, and the coverage where it is not whole."""
        if self.mean is None:
            return f"- (0/{self.of})"
        wide = "" if self.low is None or self.high is None else f" ±{(self.high - self.low) / 2:.{max(1, digits - 1)}f}"
        return f"{self.mean:.{digits}f}{wide}" + ("" if self.n == self.of else f" ({self.n}/{self.of})")


Rows = dict[str, dict[str, Figure]]


def figure(values: Iterable[float | None]) -> Figure:
    """The mean of what is there."""
    asked = list(values)
    there = [value for value in asked if value is not None]
    if not there:
        return Figure(None, None, None, 0, len(asked))
    low, high = interval(there) if len(there) > 1 else (None, None)
    return Figure(sum(there) / len(there), low, high, len(there), len(asked))


def figures(samples: Sequence[SampleScores]) -> dict[str, Figure]:
    """The four dimensions and Overall, which is the mean of the samples' geometric means."""
    return {name: figure(sample.figure(name) for sample in samples) for name in FIGURES}


def by_count(samples: Sequence[SampleScores]) -> Rows:
    """All figures by the number of garments."""
    return _grouped(samples, lambda sample: str(sample.count))


def by_background(samples: Sequence[SampleScores]) -> Rows:
    """All figures by how the judge classed the background; unclassed ones stand apart."""
    return _grouped(samples, lambda sample: sample.background_kind or "not classed")


def by_item(samples: Sequence[SampleScores], of: str) -> Rows:
    """Fidelity of single garments by `category` or `sub_style`; an item without a score lowers the coverage."""
    groups: dict[str, list[float | None]] = defaultdict(list)
    for sample in samples:
        for item in sample.items:
            name = item.category if of == "category" else f"{item.category}: {item.sub_style or 'no sub-style'}"
            groups[name].append(item.score)
    return {name: {"garments": figure(groups[name])} for name in sorted(groups)}


def missing(samples: Sequence[SampleScores]) -> dict[str, int]:
    """How many answers are missing, by question and reason."""
    counts = Counter(f"{call}: {reason}" for sample in samples for call, reason in sample.missing)
    return dict(sorted(counts.items()))


def drawn(rows: Mapping[str, Mapping[str, Figure]], first: str = "") -> list[str]:
    """Rows of figures as lines of text, columns aligned."""
    if not rows:
        return []
    names = list(next(iter(rows.values())))
    cells = [[first, *names]] + [[name, *(row[one].text() for one in names)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names) + 1)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def _grouped(samples: Sequence[SampleScores], group: Callable[[SampleScores], str]) -> Rows:
    groups: dict[str, list[SampleScores]] = defaultdict(list)
    for sample in samples:
        groups[group(sample)].append(sample)
    return {name: figures(groups[name]) for name in sorted(groups)}
