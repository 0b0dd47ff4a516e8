"""Regions of a photo: one vocabulary, whoever parsed it, fine enough to protect hands, bare legs and hair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine_build.support.errors import SupportError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

GARMENTS = ("tops", "pants", "skirts", "dresses", "coats", "shoes", "bags", "hats")
NAMES = (
    "background",
    "face",
    "eyes",
    "eyewear",
    "hair",
    "neck",
    "torso",
    "arms",
    "hands",
    "legs",
    "feet",
    "accessory",
    *GARMENTS,
)
"""Label n of a map means NAMES[n]. Eyes lie within the face; torso, arms, hands, legs and feet are bare skin;
an accessory (scarf, jewellery) belongs to none of the garments."""
LABEL = {name: number for number, name in enumerate(NAMES)}
FIGURE = tuple(name for name in NAMES if name != "background")


@dataclass(frozen=True, eq=False)
class RegionMap:
    """`labels` (h, w) uint8 of NAMES, upright as its photo; of any size, of the photo's aspect.

    Raises SupportError for another type, an empty map or labels without a name.
    """

    labels: Labels

    def __post_init__(self) -> None:
        if self.labels.dtype != np.uint8 or self.labels.ndim != 2 or not self.labels.size:
            raise SupportError("unknown-region", "a region map is a plane of 8-bit labels, not empty")
        if int(self.labels.max()) >= len(NAMES):
            raise SupportError("unknown-region", f"label {int(self.labels.max())} is no region: there are {len(NAMES)}")

    def mask(self, names: Iterable[str]) -> Mask:
        """(h, w): where one of `names` is seen. Raises SupportError for an unknown name."""
        wanted = np.zeros(256, bool)
        for name in names:
            if name not in LABEL:
                raise SupportError("unknown-region", f"there is no region {name!r}; choose from {', '.join(NAMES)}")
            wanted[LABEL[name]] = True
        return wanted[self.labels]

    def at(self, height: int, width: int) -> RegionMap:
        """The map at another size, each pixel the label at its centre."""
        rows = ((np.arange(height) + 0.5) * self.labels.shape[0] / height).astype(np.intp)
        columns = ((np.arange(width) + 0.5) * self.labels.shape[1] / width).astype(np.intp)
        return RegionMap(self.labels[rows[:, None], columns])
