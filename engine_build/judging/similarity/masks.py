"""Masks of a judged set, which the user made: where garments lie in a result, and in their own pictures.

MASKS/{id}.png or {id}_mask.png   white where the result may change: everything else must be the person's photograph
MASKS/{id}-{n}.png                white where garment n, from 1, lies in the result; {id}.png where there is only one
MASKS/{id}-{n}-garment.png        white where it lies in its own picture, also FILE_mask.* beside FILE; else the
                                  whole picture counts
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine_build.judging.pictures import KINDS, upright
from engine_build.judging.similarity.subjects import Subject

Mask = NDArray[np.bool_]


def of_change(masks: Path, subject: Subject) -> Path | None:
    """The mask of everything that may change."""
    return next((path for name in subject.names if (path := _there(masks, name, f"{name}_mask")) is not None), None)


def of_garment_in_result(masks: Path, subject: Subject, number: int) -> Path | None:
    """The mask of garment `number`, from 1, in the result."""
    alone = of_change(masks, subject) if len(subject.references) == 1 else None
    return _there(masks, f"{subject.id}-{number}") or alone


def of_garment_alone(masks: Path, subject: Subject, number: int) -> Path | None:
    """The mask of garment `number`, from 1, in its own picture."""
    file = subject.references[number - 1].picture.path
    beside = None if file is None else _there(file.parent, f"{file.stem}_mask")
    return _there(masks, f"{subject.id}-{number}-garment") or beside


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """(H, W) of a mask for a picture of `size` (width, height). Raises RequestError for what is no picture."""
    mask = upright(path).convert("L").resize(size, Image.Resampling.NEAREST)
    return np.asarray(mask) > 127


def _there(folder: Path, *names: str) -> Path | None:
    return next((path for name in names for kind in KINDS if (path := folder / f"{name}{kind}").is_file()), None)
