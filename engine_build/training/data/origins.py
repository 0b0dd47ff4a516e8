"""Where a build's samples come from: a folder of real pairs or the procedural world, both by running number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.judging.layouts import recognise
from engine_build.support.regions import LABEL
from engine_build.training.data.candidate_entry import Dropped, PreparedEntry, Rules, prepare
from engine_build.training.data.entry import Entry, EntryReference, Picture
from engine_build.training.data.layouts import Candidate, candidates
from engine_build.training.data.pictures import encoded
from engine_build.training.data.sample import Sample, Source
from engine_build.training.data.twins import look
from engine_build.training.data.world_edits import Edits
from engine_build.training.data.world_tryons import ATTEMPTS, WorldTryOns
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED

WORLDS = ("try-ons", "edits")
_DRAWN = 16
"""Scenes drawn together."""


@dataclass(frozen=True)
class Item:
    """A sample by name, or why there is none."""

    name: str
    found: PreparedEntry | Dropped


class Origin(Protocol):
    """Anything a build can take samples from; the same description always means the same items."""

    @property
    def total(self) -> int:
        """How many items there are."""
        ...

    @property
    def described(self) -> dict[str, Any]:
        """What tells this origin from others, JSON values."""
        ...

    def items(self, start: int) -> Iterator[Item]:
        """Items from number `start` on, read as they are asked for."""
        ...


@dataclass(frozen=True)
class Folder:
    """Real pairs in one of `layouts.LAYOUTS`; `auto` recognises it. Raises RequestError when it cannot."""

    path: Path
    layout: str = "auto"
    split: str = "train"
    people: Path | None = None
    rules: Rules = field(default_factory=Rules)
    listed: tuple[Candidate, ...] = field(init=False, repr=False)
    known: str = field(init=False)

    def __post_init__(self) -> None:
        if self.people is not None and not self.people.is_dir():
            raise RequestError(f"{self.people} is not a folder")
        known = recognise(self.path, self.split) if self.layout == "auto" else self.layout
        listed = tuple(candidates(self.path, known, self.split, self.people))
        if not listed:
            raise RequestError(f"{self.path} ({known}, {self.split}) lists no pairs")
        object.__setattr__(self, "known", known)
        object.__setattr__(self, "listed", listed)

    @property
    def total(self) -> int:
        return len(self.listed)

    @property
    def described(self) -> dict[str, Any]:
        people = None if self.people is None else str(self.people)
        place = {"folder": str(self.path), "layout": self.known, "split": self.split, "people": people}
        return {**place, "pairs": self.total, **asdict(self.rules)}

    def items(self, start: int) -> Iterator[Item]:
        for number, candidate in enumerate(self.listed[start:], start=start):
            try:
                found: PreparedEntry | Dropped = prepare(
                    candidate, f"{self.known}-{number:08d}", self.known, self.rules
                )
            except Dropped as dropped:
                found = dropped
            yield Item(candidate.name, found)


@dataclass(frozen=True)
class World:
    """`count` samples of the procedural world from number `first` on: `try-ons` or general `edits`.

    `mix[k - 1]` is the frequency of k garments. Raises RequestError for an unknown kind, and for numbers whose scenes
    are kept for evaluation.
    """

    kind: str = "try-ons"
    count: int = 1000
    first: int = 0
    height: int = 96
    shot: int = 40
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in WORLDS:
            raise RequestError(f"there is no world of {self.kind!r}; choose from {', '.join(WORLDS)}")
        if self.first + self.count > HELD_OUT_SEED // ATTEMPTS:
            raise RequestError(f"numbers from {HELD_OUT_SEED // ATTEMPTS} on are kept for evaluation")

    @property
    def total(self) -> int:
        return self.count

    @property
    def described(self) -> dict[str, Any]:
        return {"world": self.kind, **{k: v for k, v in asdict(self).items() if k != "kind"}}

    def items(self, start: int) -> Iterator[Item]:
        source: Source = (
            WorldTryOns(self.height, self.shot, self.mix) if self.kind == "try-ons" else Edits(self.height, self.shot)
        )
        for begin in range(start - start % _DRAWN, self.count, _DRAWN):
            numbers = range(self.first + begin, self.first + min(begin + _DRAWN, self.count))
            drawn = source.draw(numbers)
            maps = _regions(drawn, self.height)
            for place, (number, sample) in enumerate(zip(numbers, drawn, strict=True), start=begin):
                if place >= start:
                    yield Item(str(number), self._prepared(number, place, sample, maps[place - begin]))

    def _prepared(self, number: int, place: int, sample: Sample, maps: dict[str, bytes]) -> PreparedEntry:
        person, *others = sample.references
        target = picture(sample.target)
        shown = [picture(one) for one in others]
        whole = [i for i, one in enumerate(others) if one.shape == sample.target.shape]
        edited = {} if sample.edited is None else {"edited": _png(sample.edited.clamp(0, 1) * 255)}
        specs = sample.scene.garments if sample.scene is not None else (None,) * len(others)
        entry = Entry(
            key=f"world-{place:08d}",
            person=_stored(person),
            references=tuple(
                EntryReference(encoded(image), category, spec and spec.layer_words, spec and spec.description)
                for image, category, spec in zip(shown, sample.categories[1:], specs, strict=True)
            ),
            target=encoded(target),
            instruction=sample.instruction,
            source=f"world/{self.kind}",
            maps={**edited, **maps},
            labels=LABEL if maps else {},
            facts={"name": str(number), "number": number, "pictures": whole},
        )
        pictures = (target, *shown)
        return PreparedEntry(entry, pictures, tuple(look(one) for one in pictures))


def _regions(drawn: list[Sample], height: int) -> list[dict[str, bytes]]:
    scenes = [sample.scene for sample in drawn if sample.scene is not None]
    if len(scenes) < len(drawn):
        return [{} for _ in drawn]
    shown = render(scenes, height, 8, parts=True)
    if shown.person_parts is None or shown.target_parts is None:
        return [{} for _ in drawn]
    return [
        {"person_regions": _png(person), "target_regions": _png(target)}
        for person, target in zip(shown.person_parts, shown.target_parts, strict=True)
    ]


def _stored(x: Tensor) -> Picture:
    return encoded(picture(x))


def _png(x: Tensor) -> bytes:
    return encoded(Image.fromarray(x.round().cpu().numpy().astype(np.uint8))).data
