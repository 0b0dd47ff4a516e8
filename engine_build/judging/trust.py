"""How far a judge's numbers can be trusted: against itself, against the truth, against people.

again    the same pictures judged anew: mean and standard deviation of the difference, Krippendorff's alpha
sham     the same result encoded as JPEG: what a difference between two models must exceed to mean anything
truth    another journal about the very same results, exact scores of the procedural world
people   votes on pairs of two folders of results
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from engine_build.errors import RequestError
from engine_build.judging.journal import Journal
from engine_build.judging.scores import FIGURES, PLAIN, SHAM, SampleScores, of_journal
from engine_build.judging.statistics import interval, kendall, krippendorff


def again(journal: Journal) -> dict[str, Any]:
    """Repeats against each other, by figure; empty without repeats."""
    times = 1 + max((case[3] for case in journal.answers if case[2] == PLAIN), default=0)
    if times == 1:
        return {}
    asked = [of_journal(journal, PLAIN, repeat) for repeat in range(times)]
    found = {}
    for name in FIGURES:
        units = [[v for v in (one.figure(name) for one in row) if v is not None] for row in zip(*asked, strict=True)]
        units = [unit for unit in units if len(unit) > 1]
        apart = [b - a for unit in units for a, b in pairwise(unit)]
        found[name] = {**_apart(apart), "samples": len(units), "alpha": _rounded(krippendorff(units))}
    return found


def sham(journal: Journal) -> dict[str, Any]:
    """The encoded results against the results as they are, by figure; empty when none were asked about."""
    if not any(case[2] == SHAM for case in journal.answers):
        return {}
    return {name: _apart(_differences(of_journal(journal, SHAM), of_journal(journal), name)) for name in FIGURES}


def truth(journal: Journal, exact: Journal) -> dict[str, Any]:
    """A judge against exact scores, by figure: its error, its bias, and whether it ranks samples alike.

    Samples whose results were not the same pictures are left out and counted. Raises RequestError for other sets.
    """
    against = [one for one in journal.header.differs(exact.header) if one.startswith("the sets")]
    if against:
        raise RequestError(f"{journal.path} and {exact.path} cannot be compared: {against[0]}")
    same = {name for name in journal.samples if _results(journal, name) & _results(exact, name)}
    said = [one for one in of_journal(journal) if one.id in same]
    known = [one for one in of_journal(exact) if one.id in same]
    found: dict[str, Any] = {"samples": len(same), "left_out": len(journal.samples) - len(same)}
    for name in FIGURES:
        pairs = _pairs(said, known, name)
        ranked = kendall([a for a, _ in pairs], [b for _, b in pairs]) if len(pairs) > 1 else math.nan
        found[name] = {**_apart([a - b for a, b in pairs]), "tau": _rounded(ranked)}
    return found


def people(a: Journal, b: Journal, votes: Mapping[str, float]) -> dict[str, Any]:
    """Kendall's tau between the judge's preferences (A's score less B's) and people's (1 A, -1 B), by figure."""
    found = {}
    for name in FIGURES:
        theirs = {one.id: one.figure(name) for one in of_journal(b)}
        rows = []
        for one in of_journal(a):
            ours, other = one.figure(name), theirs.get(one.id)
            if one.id in votes and ours is not None and other is not None:
                rows.append((ours - other, votes[one.id]))
        ranked = kendall([x for x, _ in rows], [y for _, y in rows]) if len(rows) > 1 else math.nan
        found[name] = {"n": len(rows), "tau": _rounded(ranked)}
    return found


def compared(journals: Sequence[Journal]) -> dict[str, Any]:
    """Scores on the samples that every journal has a score of, and the difference of each to the first.

    Raises RequestError where words, judges or sets differ: such scores cannot be compared.
    """
    first, *others = journals
    for other in others:
        against = first.header.differs(other.header)
        if against:
            raise RequestError(f"{first.path} and {other.path} cannot be compared: {'; '.join(against)}")
    everything = [{one.id: one for one in of_journal(journal)} for journal in journals]
    found: dict[str, Any] = {}
    for name in FIGURES:
        values = [[samples[id_].figure(name) for id_ in everything[0]] for samples in everything]
        rows = [row for row in zip(*values, strict=True) if None not in row]
        columns = [[float(v) for v in column if v is not None] for column in zip(*rows, strict=True)]
        found[name] = {
            "n": len(rows),
            "of": len(everything[0]),
            "means": [round(fmean(column), 4) for column in columns],
            "less_the_first": [_apart([x - y for x, y in zip(c, columns[0], strict=True)]) for c in columns[1:]],
        }
    return found


def _differences(a: list[SampleScores], b: list[SampleScores], name: str) -> list[float]:
    return [x - y for x, y in _pairs(a, b, name)]


def _pairs(a: list[SampleScores], b: list[SampleScores], name: str) -> list[tuple[float, float]]:
    values = ((x.figure(name), y.figure(name)) for x, y in zip(a, b, strict=True))
    return [(x, y) for x, y in values if x is not None and y is not None]


def _apart(differences: list[float]) -> dict[str, Any]:
    """Mean with its interval, mean size and deviation of differences."""
    low, high = interval(differences)
    return {
        "n": len(differences),
        "mean": _rounded(fmean(differences)) if differences else None,
        "low": _rounded(low),
        "high": _rounded(high),
        "mean_size": _rounded(fmean(map(abs, differences))) if differences else None,
        "deviation": _rounded(stdev(differences)) if len(differences) > 1 else None,
    }


def _results(journal: Journal, sample: str) -> set[str]:
    return {row["results"] for case, row in journal.answers.items() if case[0] == sample and case[2] == PLAIN}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
