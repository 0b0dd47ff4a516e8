"""Folders of real pairs, as their authors laid them out, to candidates for samples.

    viton-hd    [SPLIT/]image/ cloth/ [agnostic-v3.2/ agnostic-mask/ image-parse-v3/], SPLIT_pairs.txt  (tops)
    dresscode   dresses|upper_body|lower_body/images/ID_0.jpg (person) ID_1.jpg (garment), [label_maps/ID_4.png],
                SPLIT_pairs.txt or SPLIT_pairs_paired.txt
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
from engine_build.support.classes import CIHP, DRESSCODE

LAYOUTS = ("viton-hd", "dresscode", "requests")

_FOLDERS = {"dresses": "dresses", "upper_body": "tops", "lower_body": "auto"}
_PEOPLE_KINDS = (".png", ".jpg", ".jpeg", ".webp")


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


def recognise(folder: Path, split: str = "train") -> str:
    """Which of LAYOUTS a folder has. Raises RequestError when none, saying what was looked for."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder")
    if any((folder / name / "images").is_dir() for name in _FOLDERS):
        return "dresscode"
    if any((base / "image").is_dir() and (base / "cloth").is_dir() for base in (folder, folder / split)):
        return "viton-hd"
    if next(folder.glob("*/request.json"), None) is not None:
        return "requests"
    raise RequestError(
        f"{folder} is none of the known layouts: image/ and cloth/ (viton-hd), upper_body/images/ (dresscode), "
        f"or NAME/request.json (requests); also tried {folder / split}"
    )


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
    base = folder / split if (folder / split / "image").is_dir() else folder
    listed = _listed([folder / f"{split}_pairs.txt", base / f"{split}_pairs.txt"])
    names = [row[0] for row in listed] if listed is not None else sorted(p.name for p in (base / "image").iterdir())
    for name in names:
        stem = Path(name).stem
        yield Candidate(
            name=stem,
            truth=_inside(base / "image", name),
            garments=(Garment(_inside(base / "cloth", name), "tops"),),
            person=_of_person(people, stem),
            masked=_there(base / "agnostic-v3.2" / name),
            mask=_there(base / "agnostic-mask" / f"{stem}_mask.png"),
            labels=_there(base / "image-parse-v3" / f"{stem}.png"),
            classes=CIHP,
        )


def _dresscode(folder: Path, split: str, people: Path | None) -> Iterator[Candidate]:
    for part, category in _FOLDERS.items():
        base = folder / part
        if not (base / "images").is_dir():
            continue
        listed = _listed([base / f"{split}_pairs_paired.txt", base / f"{split}_pairs.txt"])
        found = sorted(p.name for p in (base / "images").glob("*_0.*"))
        for person in [row[0] for row in listed] if listed is not None else found:
            number = person.partition("_")[0]
            yield Candidate(
                name=f"{part}-{Path(person).stem}",
                truth=_inside(base / "images", person),
                garments=(Garment(_inside(base / "images", person.replace("_0.", "_1.")), category),),
                person=_of_person(people and people / part, Path(person).stem),
                labels=_there(base / "label_maps" / f"{number}_4.png"),
                classes=DRESSCODE,
            )


def _requests(folder: Path) -> Iterator[Candidate]:
    for path in sorted(folder.glob("*/request.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            garments = tuple(
                Garment(_inside(path.parent, row["file"]), row["category"], row.get("layer"), row.get("description"))
                for row in said["garments"]
            )
            person, truth = _inside(path.parent, said["person"]), _inside(path.parent, said["truth"])
            instruction = said.get("instruction")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"{path} is not a request with person, garments and truth: {error!r}") from error
        try:
            compose([GarmentPhrase(g.category, g.layer, g.description) for g in garments])
        except ValueError as error:
            raise RequestError(f"{path}: {error}") from error
        yield Candidate(path.parent.name, truth, garments, person, instruction=instruction)


def _listed(choices: list[Path]) -> list[tuple[str, str]] | None:
    for path in choices:
        if path.exists():
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            bad = next((i for i, row in enumerate(rows, start=1) if len(row) < 2), None)
            if bad is not None:
                raise RequestError(f"{path}, line {bad}: two file names expected")
            return [(row[0], row[1]) for row in rows]
    return None


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder. Raises RequestError for a name that leads out of it."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RequestError(f"{name!r} leads out of {folder}")
    return folder / name


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _of_person(people: Path | None, stem: str) -> Path | None:
    if people is None:
        return None
    return next((people / f"{stem}{kind}" for kind in _PEOPLE_KINDS if (people / f"{stem}{kind}").exists()), None)
