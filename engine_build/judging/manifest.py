"""A judged set: what was asked of every sample, and where a folder of results keeps its answers.

SET/set.jsonl   one row a sample: {"id", "person", "references": [{"category", "sub_style", "file"}],
                "instruction", "truth"?}; files relative to SET
RESULTS/{id}.png   or .jpg, .jpeg, .webp
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS

KINDS = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of a picture's name, in the order they are looked for."""


@dataclass(frozen=True)
class Reference:
    """One garment that was asked for."""

    category: str
    sub_style: str
    file: Path


@dataclass(frozen=True)
class Sample:
    """One try-on of a set: the conditions, and the truth where it is known."""

    id: str
    person: Path
    references: tuple[Reference, ...]
    instruction: str
    truth: Path | None = None


def read_set(folder: Path) -> list[Sample]:
    """The samples of SET in the order of its file.

    Raises RequestError for a set without set.jsonl, a row that is not a sample, or an id that stands twice.
    """
    path = folder / "set.jsonl"
    if not path.is_file():
        raise RequestError(f"{folder} has no set.jsonl with a row {{id, person, references, instruction}} a sample")
    samples: dict[str, Sample] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            sample = _sample(folder, json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"{path}, line {number}: not a sample: {error!r}") from error
        if sample.id in samples:
            raise RequestError(f"{path}, line {number}: the id {sample.id!r} stands twice")
        samples[sample.id] = sample
    if not samples:
        raise RequestError(f"{path} has no samples")
    return list(samples.values())


def result_of(results: Path, sample_id: str) -> Path | None:
    """The picture that a folder of results has for a sample, None when it has none."""
    return next((path for kind in KINDS if (path := results / f"{sample_id}{kind}").is_file()), None)


def upright(path: Path) -> Image.Image:
    """A picture as RGB, turned as its EXIF says. Raises RequestError for what is no picture."""
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise RequestError(f"{path} cannot be read as a picture: {error}") from error


def _sample(folder: Path, row: dict[str, Any]) -> Sample:
    name = row["id"]
    if not isinstance(name, str) or not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"the id {name!r} cannot name a file")
    references = tuple(
        Reference(str(one["category"]), str(one.get("sub_style", "")), folder / one["file"])
        for one in row["references"]
    )
    if not 1 <= len(references) <= MAX_GARMENTS:
        raise ValueError(f"{len(references)} references; 1 to {MAX_GARMENTS} are judged")
    truth = row.get("truth")
    return Sample(name, folder / row["person"], references, str(row["instruction"]), folder / truth if truth else None)
