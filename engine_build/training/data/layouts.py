"""Folders of real pairs, as `engine_build/judging/layouts.py` lists them, to candidates for samples.

    viton-hd    also agnostic-v3.2/ agnostic-mask/ image-parse-v3/
    dresscode   also label_maps/ID_4.png
    requests    NAME/request.json with person, garments and truth, as `changeroom samples` writes them

Lists of pairs choose people; the garment is always their own, because only of that the truth is known.

In the first two the photo shows the person in the garment already: it is the truth. The picture to edit must be
another: one of the same name under `people` (the same person in other clothes, made by any try-on model), else the
photo with the garment's place greyed (see masking.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine_build.errors import RequestError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.judging import layouts
from engine_build.judging.layouts import LAYOUTS, inside
from engine_build.judging.pictures import result_of
from engine_build.support.classes import CIHP, DRESSCODE


@dataclass(frozen=True)
class Garment:
    """A picture of a garment and what its source says about it."""

    path: Path
    category: str
    layer: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Candidate:
    """What may become a sample, nothing read yet.

    `person` is None where only the truth exists. `masked` is that truth with the garment gone, `mask` where it was;
    `labels` is a parse of the truth, `classes` the names of its numbers.
    """

    name: str
    truth: Path
    garments: tuple[Garment, ...]
    person: Path | None = None
    masked: Path | None = None
    mask: Path | None = None
    labels: Path | None = None
    classes: tuple[str, ...] = ()
    instruction: str | None = None


def candidates(folder: Path, layout: str, split: str = "train", people: Path | None = None) -> Iterator[Candidate]:
    """What a folder holds, in a fixed order. Raises RequestError for an unknown layout or a bad list of pairs."""
    if layout == "viton-hd":
        return _viton_hd(folder, split, people)
    if layout == "dresscode":
        return _dresscode(folder, split, people)
    if layout == "requests":
        return _requests(folder)
    raise RequestError(f"there is no layout {layout!r}; choose from {', '.join(LAYOUTS)}")


def _viton_hd(folder: Path, split: str, people: Path | None) -> Iterator[Candidate]:
    for pair in layouts.viton_hd(folder, split):
        yield Candidate(
            name=pair.name,
            truth=pair.person,
            garments=(Garment(pair.own, pair.category),),
            person=_of_person(people, pair.name),
            masked=_there(pair.base / "agnostic-v3.2" / pair.person.name),
            mask=_there(pair.base / "agnostic-mask" / f"{pair.name}_mask.png"),
            labels=_there(pair.base / "image-parse-v3" / f"{pair.name}.png"),
            classes=CIHP,
        )


def _dresscode(folder: Path, split: str, people: Path | None) -> Iterator[Candidate]:
    for pair in layouts.dresscode(folder, split):
        number = pair.person.name.partition("_")[0]
        yield Candidate(
            name=pair.name,
            truth=pair.person,
            garments=(Garment(pair.own, pair.category),),
            person=_of_person(people and people / pair.base.name, pair.person.stem),
            labels=_there(pair.base / "label_maps" / f"{number}_4.png"),
            classes=DRESSCODE,
        )


def _requests(folder: Path) -> Iterator[Candidate]:
    for path in layouts.requests_in(folder):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            garments = tuple(
                Garment(inside(path.parent, row["file"]), row["category"], row.get("layer"), row.get("description"))
                for row in said["garments"]
            )
            person, truth = inside(path.parent, said["person"]), inside(path.parent, said["truth"])
            instruction = said.get("instruction")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"{path} is not a request with person, garments and truth: {error!r}") from error
        try:
            compose([GarmentPhrase(g.category, g.layer, g.description) for g in garments])
        except ValueError as error:
            raise RequestError(f"{path}: {error}") from error
        yield Candidate(path.parent.name, truth, garments, person, instruction=instruction)


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _of_person(people: Path | None, stem: str) -> Path | None:
    return None if people is None else result_of(people, stem)
