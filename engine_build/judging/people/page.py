"""One page on which people compare two systems, blind: results side by side under what was asked for.

The page holds everything (pictures, style, script) and asks the network for nothing. It does not hold which picture is
whose: that is the key, a file of its own that stays with whoever counts. Every picture is encoded anew, alike, so that
neither a file's kind nor its metadata tells its maker.

    page.html       {"page": hash, "trials": [{"id", "person", "garments", "instruction", "left", "right"}], ...}
    page.key.json   {"page": hash, "a", "b", "seed", "missing", "trials": {id: {"sample", "garments", "left": "a"|"b"}}}

The hash is SHA-256 of what the page shows; votes carry it, and `votes.py` counts only those of its own page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from engine_build.errors import RequestError
from engine_build.judging.pictures import result_of, upright
from engine_build.judging.samples import Picture, Sample

Progress = Callable[[int, int], None]
SMALL = 480
"""Longest side of a person or garment on the page, pixels."""


@dataclass(frozen=True)
class PagePlan:
    """How the page is made. `limit` takes a random share of the samples; `height` bounds a result, in pixels.

    `ship` also asks of each picture whether it is good enough to ship. Equal `seed`s give equal pages.
    """

    seed: int
    limit: int | None = None
    height: int = 1024
    ship: bool = False
    question: str = "Which try-on is better?"


@dataclass(frozen=True)
class Answered:
    """A sample and the results of both, by "a" and "b"."""

    sample: Sample
    results: dict[str, Path]


@dataclass(frozen=True)
class Page:
    """The page and what unblinds it."""

    html: str
    key: dict[str, Any]


def make_page(
    samples: Sequence[Sample], a: Path, b: Path, plan: PagePlan, progress: Progress = lambda done, total: None
) -> Page:
    """The page of every sample that both folders answered.

    Raises RequestError when there is none, or when a picture cannot be read.
    """
    if a.resolve() == b.resolve():
        raise RequestError(f"{a} and {b} are one folder: name the results of two systems")
    missing: dict[str, list[str]] = {"a": [], "b": []}
    answered: list[Answered] = []
    for sample in samples:
        shown = {name: result_of(folder, sample.id) for name, folder in (("a", a), ("b", b))}
        found = {name: path for name, path in shown.items() if path is not None}
        if len(found) == 2:
            answered.append(Answered(sample, found))
        for name in shown.keys() - found.keys():
            missing[name].append(sample.id)
    if not answered:
        raise RequestError(f"no sample has a result in both {a} and {b}; results are called ID.png")
    chosen = _sided(answered, plan.limit, random.Random(plan.seed))

    pictures: dict[str, str] = {}
    trials: list[dict[str, Any]] = []
    answers: dict[str, dict[str, Any]] = {}
    for number, (one, left) in enumerate(chosen, start=1):
        sample, right = one.sample, "b" if left == "a" else "a"
        trial = f"t{number:04d}"
        trials.append(
            {
                "id": trial,
                "person": _kept(pictures, sample.person, SMALL),
                "garments": [
                    {"picture": _kept(pictures, reference.picture, SMALL), "category": reference.category}
                    for reference in sample.references
                ],
                "instruction": sample.instruction,
                "left": _kept(pictures, one.results[left], plan.height),
                "right": _kept(pictures, one.results[right], plan.height),
            }
        )
        answers[trial] = {"sample": sample.id, "garments": len(sample.references), "left": left}
        progress(number, len(chosen))

    told = {"version": 1, "title": plan.question, "ship": plan.ship, "trials": trials}
    # Pictures are called by their own hashes, so that the page's hash covers them too.
    page = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    names = [_label(a, b), _label(b, a)]
    key = {"kind": "changeroom-key", "page": page, "a": names[0], "b": names[1], "seed": plan.seed}
    key |= {"ship": plan.ship, "missing": missing, "trials": answers}
    return Page(_html({**told, "page": page, "pictures": dict(sorted(pictures.items()))}), key)


def _sided(answered: list[Answered], limit: int | None, dice: random.Random) -> list[tuple[Answered, str]]:
    """Samples in a random order, each with whose result is left: within a garment count, both equally often."""
    by_count: dict[int, list[Answered]] = defaultdict(list)
    for one in dice.sample(answered, min(limit or len(answered), len(answered))):
        by_count[len(one.sample.references)].append(one)
    sided = []
    for group in by_count.values():
        first = dice.randrange(2)
        sided += [(one, "ab"[(first + i) % 2]) for i, one in enumerate(group)]
    dice.shuffle(sided)
    return sided


def _kept(pictures: dict[str, str], source: Path | Picture, longest: int) -> str:
    """Put a picture among `pictures` as a data URI, at most `longest` pixels high and wide; returns its name there."""
    picture = upright(source)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, subsampling=0)
    name = hashlib.sha256(out.getvalue()).hexdigest()[:24]
    pictures[name] = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return name


def _label(folder: Path, other: Path) -> str:
    """A folder's name, with its parent's where the other's is the same."""
    folder, other = folder.resolve(), other.resolve()
    return folder.name if folder.name != other.name else f"{folder.parent.name}/{folder.name}"


def _html(told: dict[str, Any]) -> str:
    """The page's one file. `</script>` and `<!--` cannot occur in its data: every `<` there is escaped."""
    parts = files("engine_build.judging.people") / "assets"
    data = json.dumps(told, sort_keys=True, ensure_ascii=False).replace("<", "\\u003c")
    style, script = ((parts / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    allowed = " ".join(f"{kind}-src 'sha256-{_digest(text)}';" for kind, text in (("style", style), ("script", script)))
    html = (parts / "page.html").read_text(encoding="utf-8")
    for mark, text in (("ALLOWED", allowed), ("STYLE", style), ("SCRIPT", script), ("DATA", data)):
        html = html.replace(f"{{{{{mark}}}}}", text, 1)
    return html


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
