"""Folders of pairs as their authors laid them out: which person goes with which garment, nothing read yet.

    viton-hd    [SPLIT/]image/ cloth/, SPLIT_pairs.txt                              (tops)
    dresscode   dresses|upper_body|lower_body/images/ID_0.jpg (person) ID_1.jpg (garment), SPLIT_pairs.txt or
                SPLIT_pairs_paired.txt and SPLIT_pairs_unpaired.txt
    requests    NAME/request.json, as `changeroom samples` writes them

A line of a list names a person and the garment of the unpaired setting; a person's own garment, of which the photo is
the truth, has the person's name. Training and judging read the same lists here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine_build.errors import RequestError

LAYOUTS = ("viton-hd", "dresscode", "requests")
PARTS = {"dresses": "dresses", "upper_body": "tops", "lower_body": "auto"}
"""Folders of DressCode and our category of what is in them; the lower body may be pants or a skirt."""


@dataclass(frozen=True)
class Pair:
    """A photo, the garment worn on it, and the garment that a list pairs it with (None without a list)."""

    name: str
    base: Path
    person: Path
    own: Path
    wanted: Path | None
    category: str


def recognise(folder: Path, split: str = "train") -> str:
    """Which of LAYOUTS a folder has. Raises RequestError when none, saying what was looked for."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder")
    if any((folder / name / "images").is_dir() for name in PARTS):
        return "dresscode"
    if any((base / "image").is_dir() and (base / "cloth").is_dir() for base in (folder, folder / split)):
        return "viton-hd"
    if requests_in(folder):
        return "requests"
    raise RequestError(
        f"{folder} is none of the known layouts: image/ and cloth/ (viton-hd), upper_body/images/ (dresscode), "
        f"or NAME/request.json (requests); also tried {folder / split}"
    )


def viton_hd(folder: Path, split: str) -> Iterator[Pair]:
    """Pairs of VITON-HD in the order of its list, or of names. Raises RequestError for a bad list."""
    base = folder / split if (folder / split / "image").is_dir() else folder
    listed = _listed([folder / f"{split}_pairs.txt", base / f"{split}_pairs.txt"])
    if listed is None:
        listed = [(path.name, "") for path in sorted((base / "image").iterdir())]
    for name, other in listed:
        person, own = inside(base / "image", name), inside(base / "cloth", name)
        yield Pair(Path(name).stem, base, person, own, inside(base / "cloth", other) if other else None, "tops")


def dresscode(folder: Path, split: str, unpaired: bool = False) -> Iterator[Pair]:
    """Pairs of DressCode, part by part. Raises RequestError for a bad list."""
    first = "unpaired" if unpaired else "paired"
    for part, category in PARTS.items():
        base = folder / part
        if not (base / "images").is_dir():
            continue
        listed = _listed([base / f"{split}_pairs_{first}.txt", base / f"{split}_pairs.txt"])
        if listed is None:
            listed = [(path.name, "") for path in sorted((base / "images").glob("*_0.*"))]
        for name, other in listed:
            person, own = inside(base / "images", name), inside(base / "images", name.replace("_0.", "_1."))
            wanted = inside(base / "images", other) if other else None
            yield Pair(f"{part}-{Path(name).stem}", base, person, own, wanted, category)


def requests_in(folder: Path) -> list[Path]:
    """The request.json files of a folder: its own, or one of each folder in it."""
    own = folder / "request.json"
    return [own] if own.is_file() else sorted(folder.glob("*/request.json"))


def inside(folder: Path, name: str) -> Path:
    """A file of a folder. Raises RequestError for a name that leads out of it."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RequestError(f"{name!r} leads out of {folder}")
    return folder / name


def _listed(choices: list[Path]) -> list[tuple[str, str]] | None:
    for path in choices:
        if path.exists():
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            bad = next((i for i, row in enumerate(rows, start=1) if len(row) < 2), None)
            if bad is not None:
                raise RequestError(f"{path}, line {bad}: two file names expected")
            return [(row[0], row[1]) for row in rows]
    return None
