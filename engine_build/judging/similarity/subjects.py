"""The people of a set with the photographs that results are measured beside, and which result belongs to whom.

    a set       SET/set.jsonl; only rows with a truth have a photograph
    viton-hd    [SPLIT/]image/NAME.jpg, SPLIT_pairs.txt
    dresscode   upper_body|lower_body|dresses/images/ID_0.jpg, SPLIT_pairs_paired.txt or SPLIT_pairs.txt in each
    pictures    any folder of pictures, each called as its result is

A result is called as the person's photograph is. For DressCode the part stands before it, as a folder or with a dash,
or not at all where the name is of one part only. Results of garments that the person does not wear are called so too:
of them no truth is known, but they can be measured as a set beside the photographs of the same people.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine_build.errors import RequestError
from engine_build.judging.folders import MANIFEST, manifest
from engine_build.judging.pictures import KINDS, result_of
from engine_build.judging.samples import Picture, Reference

PARTS = ("upper_body", "lower_body", "dresses")


@dataclass(frozen=True)
class Subject:
    """One person to dress: the photograph before, and `truth`, the one in the garments, where there is one.

    `names` are what a result may be called, `group` is the part of DressCode or empty.
    """

    id: str
    person: Path | Picture
    truth: Path | Picture | None
    names: tuple[str, ...]
    group: str = ""
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Dressed:
    """A result and whom it dresses."""

    subject: Subject
    result: Path


def read_subjects(folder: Path, split: str = "test") -> list[Subject]:
    """The people of a folder in a fixed order. Raises RequestError when it holds none."""
    if (folder / MANIFEST).is_file():
        samples = manifest(folder / MANIFEST).samples
        found = [Subject(one.id, one.person, one.truth, (one.id,), references=one.references) for one in samples]
    elif any((folder / part / "images").is_dir() for part in PARTS):
        found = _dresscode(folder, split)
    elif any((base / "image").is_dir() for base in (folder / split, folder)):
        found = _viton_hd(folder, split)
    elif folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)
        found = [_own(path.stem, path, (path.stem,)) for path in files]
    else:
        raise RequestError(f"{folder} is not a folder")
    if not found:
        raise RequestError(
            f"{folder} has no photographs: a set.jsonl, image/ (VITON-HD), upper_body/images/ (DressCode) "
            f"or pictures are looked for"
        )
    return found


def find_results(subjects: list[Subject], results: Path) -> tuple[list[Dressed], list[str]]:
    """Results with whom they dress, and the ids that have none. Raises RequestError when no id has one."""
    if not results.is_dir():
        raise RequestError(f"{results} is not a folder of results")
    found, missing = [], []
    for one in subjects:
        result = next((path for name in one.names if (path := result_of(results, name)) is not None), None)
        if result is None:
            missing.append(one.id)
        else:
            found.append(Dressed(one, result))
    if not found:
        raise RequestError(f"{results} holds no result: {subjects[0].id}.png, for one, is not there")
    return found, missing


def _viton_hd(folder: Path, split: str) -> list[Subject]:
    base = folder / split if (folder / split / "image").is_dir() else folder
    listed = _listed([folder / f"{split}_pairs.txt", base / f"{split}_pairs.txt"])
    names = listed or sorted(path.name for path in (base / "image").iterdir() if path.suffix.lower() in KINDS)
    return [_own(Path(name).stem, base / "image" / name, (Path(name).stem,)) for name in names]


def _dresscode(folder: Path, split: str) -> list[Subject]:
    rows = []
    for part in PARTS:
        base = folder / part
        if (base / "images").is_dir():
            listed = _listed([base / f"{split}_pairs_paired.txt", base / f"{split}_pairs.txt"])
            found = listed or sorted(path.name for path in (base / "images").glob("*_0.*"))
            rows += [(part, name) for name in found]
    often = Counter(Path(name).stem for _, name in rows)
    subjects = []
    for part, name in rows:
        stem = Path(name).stem
        alone = (stem,) if often[stem] == 1 else ()
        names = (f"{part}/{stem}", f"{part}-{stem}", *alone)
        subjects.append(_own(f"{part}/{stem}", folder / part / "images" / name, names, part))
    return subjects


def _own(name: str, photograph: Path, names: tuple[str, ...], group: str = "") -> Subject:
    """A person whose one photograph is both, as in VITON-HD and DressCode."""
    return Subject(name, photograph, photograph, names, group)


def _listed(choices: list[Path]) -> list[str] | None:
    """First names in the lines of the first list that is there. Raises RequestError for one that leads out."""
    path = next((path for path in choices if path.is_file()), None)
    if path is None:
        return None
    names = dict.fromkeys(line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    bad = next((name for name in names if Path(name).name != name), None)
    if bad is not None:
        raise RequestError(f"{path}: {bad!r} is not the name of a photograph")
    return list(names)
