"""Counts the votes of a side-by-side page: how often A wins, ties and loses against B, by garment count.

A sample is one case however many people voted on it: its votes are averaged first, and intervals are Wilson's on the
number of samples. Ten people who look at the same twenty samples know those better, not the two systems.

Nothing is guessed: a file of another page, a vote on a pair that the page does not have, or one sitting twice is
refused; pairs without a vote are left out and counted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
from engine_build.judging.people.wilson import Share, wilson

OUTCOMES = ("win", "tie", "lose")


@dataclass(frozen=True)
class Row:
    """What one group of samples says of A: shares of win, tie and lose, over `samples` with `votes` votes."""

    garments: str
    samples: int
    votes: int
    win: Share
    tie: Share
    lose: Share

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {name: getattr(self, name).as_dict() for name in OUTCOMES}
        return {"garments": self.garments, "samples": self.samples, "votes": self.votes, **shares}


@dataclass
class Tally:
    """Everything that the votes of one page say.

    `preference` is by sample, 1 where everybody preferred A, -1 where everybody preferred B: what a judge can be held
    to. `usable` holds shares good enough to ship, by "a" and "b".
    """

    page: str
    a: str
    b: str
    voters: int
    samples: int
    left_out: int
    rows: list[Row] = field(default_factory=list)
    left: Share | None = None
    agreement: float | None = None
    preference: dict[str, float] = field(default_factory=dict)
    usable: dict[str, Share] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; equal votes give equal bytes."""
        return {
            "page": self.page,
            "a": self.a,
            "b": self.b,
            "voters": self.voters,
            "samples": self.samples,
            "left_out": self.left_out,
            "rows": [row.as_dict() for row in self.rows],
            "left": self.left.as_dict() if self.left else None,
            "agreement": self.agreement,
            "preference": dict(sorted(self.preference.items())),
            "usable": {side: share.as_dict() for side, share in sorted(self.usable.items())},
        }

    def text(self) -> str:
        """A table and what to know beside it."""
        judged = self.rows[-1].samples
        lines = [
            f"A = {self.a}    B = {self.b}",
            f"{judged} of {self.samples} pairs voted on, sittings: {self.voters}",
            f"samples left out of the page, since A or B had no result for them: {self.left_out}",
            "",
            f"{'garments':9}{'samples':>8}{'votes':>7}   {'A wins':17}{'tie':17}{'A loses':17}",
        ]
        for row in self.rows:
            shares = "".join(f"{getattr(row, name).text():17}" for name in OUTCOMES)
            lines.append(f"{row.garments:9}{row.samples:>8}{row.votes:>7}   {shares}".rstrip())
        lines += ["", "Shares with 95% Wilson intervals over samples."]
        if self.left is not None:
            lines.append(f"The left picture won {self.left.text()} of the decided votes: without a habit, half.")
        if self.agreement is not None:
            lines.append(f"Two people gave one pair the same vote in {100 * self.agreement:.0f}% of cases.")
        for side, share in sorted(self.usable.items()):
            lines.append(f"Good enough to ship: {side.upper()} {share.text()}")
        return "\n".join(lines) + "\n"


def count(votes: Sequence[Path], key: Path) -> Tally:
    """The tally of vote files that belong to the page of `key`.

    Raises RequestError for a file that is not votes, of another page, twice the same sitting, or none voted on.
    """
    told = read_key(key)
    trials: dict[str, dict[str, Any]] = told["trials"]
    sittings: dict[str, Path] = {}
    given: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in votes:
        one = _read(path, "changeroom-votes")
        if one["page"] != told["page"]:
            raise RequestError(
                f"{path} holds votes on the page {one['page'][:8]}, but {key} unblinds the page {told['page'][:8]}"
            )
        sitting = str(one.get("sitting"))
        if sitting in sittings:
            raise RequestError(f"{path} and {sittings[sitting]} are one sitting: keep the later file only")
        sittings[sitting] = path
        for trial, vote in one["votes"].items():
            if trial not in trials or vote.get("vote") not in ("left", "same", "right"):
                raise RequestError(f"{path}: {trial!r} is no vote on a pair of this page")
            given[trial].append(vote)
    if not given:
        raise RequestError("the files hold no votes yet")
    left_out = set(told["missing"]["a"]) | set(told["missing"]["b"])
    tally = Tally(told["page"], told["a"], told["b"], len(sittings), len(trials), len(left_out))
    _fill(tally, trials, given)
    return tally


def find_key(votes: Sequence[Path]) -> Path:
    """The key of the votes' page, beside them or in the current folder. Raises RequestError when there is none."""
    wanted = _read(votes[0], "changeroom-votes")["page"]
    folders = dict.fromkeys([*(path.parent for path in votes), Path()])
    for path in sorted(found for folder in folders for found in folder.glob("*.key.json")):
        if read_key(path)["page"] == wanted:
            return path
    raise RequestError(f"no key of the page {wanted[:8]} lies beside the votes; name its *.key.json with --key")


def read_key(path: Path) -> dict[str, Any]:
    """What `page.py` wrote beside the page. Raises RequestError for another file."""
    told = _read(path, "changeroom-key")
    if not all(isinstance(told.get(name), dict) for name in ("trials", "missing")):
        raise RequestError(f"{path} is a key without its trials")
    return told


def _fill(tally: Tally, trials: dict[str, dict[str, Any]], given: dict[str, list[dict[str, Any]]]) -> None:
    outcomes: dict[str, list[list[str]]] = defaultdict(list)
    usable: dict[str, list[float]] = {"a": [], "b": []}
    decided: list[str] = []
    for trial, votes in sorted(given.items()):
        about = trials[trial]
        decided += [vote["vote"] for vote in votes if vote["vote"] != "same"]
        said = [_outcome(vote["vote"], about["left"]) for vote in votes]
        outcomes[str(about["garments"])].append(said)
        tally.preference[about["sample"]] = round((said.count("win") - said.count("lose")) / len(said), 4)
        for side in usable:
            seen = [vote["ship"] for vote in votes if "ship" in vote]
            if seen:
                place = "left" if about["left"] == side else "right"
                usable[side].append(sum(bool(one[place]) for one in seen) / len(seen))
    tally.rows = [_row(garments, rows) for garments, rows in sorted(outcomes.items())]
    tally.rows.append(_row("all", [one for rows in outcomes.values() for one in rows]))
    tally.left = wilson(decided.count("left"), len(decided)) if decided else None
    pairs = [a == b for rows in outcomes.values() for said in rows for a, b in combinations(said, 2)]
    tally.agreement = round(sum(pairs) / len(pairs), 4) if pairs else None
    tally.usable = {side: wilson(sum(shares), len(shares)) for side, shares in usable.items() if shares}


def _outcome(vote: str, left: str) -> str:
    """win, tie or lose of A."""
    if vote == "same":
        return "tie"
    return "win" if (vote == "left") == (left == "a") else "lose"


def _row(garments: str, said: list[list[str]]) -> Row:
    win, tie, lose = (wilson(sum(votes.count(name) / len(votes) for votes in said), len(said)) for name in OUTCOMES)
    return Row(garments, len(said), sum(map(len, said)), win, tie, lose)


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}") from error
    if not isinstance(told, dict) or told.get("kind") != kind or not isinstance(told.get("page"), str):
        wanted = "votes saved by a page" if kind == "changeroom-votes" else "the key that came with a page"
        raise RequestError(f"{path} is not {wanted}")
    if kind == "changeroom-votes" and not isinstance(told.get("votes"), dict):
        raise RequestError(f"{path} is not votes saved by a page")
    return told
