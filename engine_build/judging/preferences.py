"""Which of two folders of results is better: a judge's verdicts in both orders, and people's votes on the same pairs.

A judge that prefers whatever stands first says nothing about the pictures. So every pair is asked in both orders; a
verdict counts only when both agree, and the share of pairs whose verdict turned with the order is reported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from engine_build.judging.cases import A_FIRST, B_FIRST
from engine_build.judging.journal import Journal
from engine_build.judging.prompts import PAIR

OUTCOMES = ("a", "same", "b", "flipped", "missing")
_BETTER = {
    (A_FIRST, "first"): "a",
    (A_FIRST, "second"): "b",
    (B_FIRST, "first"): "b",
    (B_FIRST, "second"): "a",
}


def verdicts(journal: Journal) -> dict[str, str]:
    """One of OUTCOMES for every sample of a journal of preferences: flipped where the two orders disagree."""
    found = {}
    for sample in journal.samples:
        rows = [(order, journal.answers.get((sample, PAIR, order, 0))) for order in (A_FIRST, B_FIRST)]
        said = [_BETTER.get((order, row["form"]["better"]), "same") for order, row in rows if row and "form" in row]
        found[sample] = "missing" if len(said) < 2 else said[0] if said[0] == said[1] else "flipped"
    return found


def summary(journal: Journal) -> dict[str, Any]:
    """Counts by number of garments and of all, the share that flipped, and how often the first place won."""
    found = verdicts(journal)
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, outcome in found.items():
        for group in (str(len(journal.samples[sample]["references"])), "all"):
            groups[group][outcome] += 1
    said = [row["form"]["better"] for row in journal.answers.values() if "form" in row]
    decided = [one for one in said if one != "same"]
    both = sum(groups["all"][name] for name in ("a", "same", "b", "flipped"))
    return {
        "by_count": {group: {name: groups[group][name] for name in OUTCOMES} for group in sorted(groups)},
        "judged": both,
        "of": len(found),
        "flipped": round(groups["all"]["flipped"] / both, 4) if both else None,
        "first_place_won": round(decided.count("first") / len(decided), 4) if decided else None,
    }
