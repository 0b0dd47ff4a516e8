"""Which of two folders of results is better: a judge's verdicts in both orders, and people's votes on the same pairs.

A judge that prefers whatever stands first says nothing about the pictures. So every pair is asked in both orders; a
verdict counts only when both agree, and the share of pairs whose verdict turned with the order is reported.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
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


def of_people(votes: Sequence[Path], key: Path) -> dict[str, float]:
    """Mean vote a sample, 1 for A, -1 for B, from files that a side-by-side page saved and the key that unblinds it.

    Raises RequestError for files that are not those of one page.
    """
    try:
        told = json.loads(key.read_text(encoding="utf-8"))
        trials = told["trials"]
        given: dict[str, list[float]] = defaultdict(list)
        for path in votes:
            one = json.loads(path.read_text(encoding="utf-8"))
            if one["page"] != told["page"]:
                raise RequestError(f"{path} holds votes on another page than {key} unblinds")
            for trial, vote in one["votes"].items():
                side = {"left": 1.0, "same": 0.0, "right": -1.0}[vote["vote"]]
                given[trials[trial]["sample"]].append(side if trials[trial]["left"] == "a" else -side)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RequestError(f"votes and key are not those of a side-by-side page: {error!r}") from error
    return {sample: sum(sides) / len(sides) for sample, sides in given.items()}
