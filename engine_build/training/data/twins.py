"""Pictures seen before: a perceptual hash that survives recompression and small resizing, found again in a set.

The hash is the difference hash (Krawetz, 2013) along rows and columns of an 8 x 8 reduction, with a dead zone,
because in the flat backdrop of a studio photo the plain hash tells only noise. Shops photograph one model in one
pose and cut in every colour: those are not twins, hence a coarse colour beside the hash.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

SIDE = 8
BITS = 2 * SIDE * SIDE
DEAD_ZONE = 4
"""Grey levels by which neighbours must differ."""
COLOUR_ZONE = 12
"""Levels by which a cell's mean colour may differ."""
_CELLS = 4


@dataclass(frozen=True)
class Look:
    """What a picture looks like: `bits` of the hash, and the mean colours of 4 x 4 cells (48 bytes)."""

    bits: int
    colours: bytes

    def near(self, other: Look, distance: int) -> bool:
        """At most `distance` of 128 bits apart, and of one colour."""
        if (self.bits ^ other.bits).bit_count() > distance:
            return False
        a, b = (np.frombuffer(one.colours, dtype=np.uint8).astype(int) for one in (self, other))
        return bool(np.abs(a - b).max() <= COLOUR_ZONE)

    def text(self) -> str:
        """For a shard's index."""
        return f"{self.bits:0{BITS // 4}x}{self.colours.hex()}"

    @classmethod
    def of_text(cls, text: str) -> Look:
        return cls(int(text[: BITS // 4], 16), bytes.fromhex(text[BITS // 4 :]))


def look(image: Image.Image) -> Look:
    """The look of an RGB picture."""
    grey = image.convert("L").resize((SIDE + 1, SIDE + 1), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=int)
    right = levels[:-1, 1:] - levels[:-1, :-1] >= DEAD_ZONE
    down = levels[1:, :-1] - levels[:-1, :-1] >= DEAD_ZONE
    packed = np.packbits(np.concatenate([right.ravel(), down.ravel()])).tobytes()
    cells = image.convert("RGB").resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return Look(int.from_bytes(packed, "big"), np.asarray(cells).tobytes())


class Seen:
    """Samples by their looks. A twin has every picture near: target, and the same number of references.

    Of `distance` + 1 bands of the target's bits at least one is equal in twins, so a look-up compares only samples
    that share a band (Manku et al., 2007).
    """

    def __init__(self, distance: int = 6) -> None:
        if not 0 <= distance < BITS // 4:
            raise ValueError(f"a distance of {distance} bits of {BITS} would not tell pictures apart")
        self.distance = distance
        edges = [round(i * BITS / (distance + 1)) for i in range(distance + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._held: list[tuple[str, tuple[Look, ...]]] = []
        self._by_band: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def twin(self, looks: tuple[Look, ...]) -> str | None:
        """The name of the first sample seen that this one repeats; `looks` are target first, then references."""
        tried: set[int] = set()
        for table, (low, mask) in zip(self._by_band, self._bands, strict=True):
            tried.update(table.get(looks[0].bits >> low & mask, ()))
        for row in sorted(tried):
            name, held = self._held[row]
            if len(held) == len(looks) and all(a.near(b, self.distance) for a, b in zip(looks, held, strict=True)):
                return name
        return None

    def add(self, name: str, looks: tuple[Look, ...]) -> None:
        """Remember a sample."""
        self._held.append((name, looks))
        for table, (low, mask) in zip(self._by_band, self._bands, strict=True):
            table[looks[0].bits >> low & mask].append(len(self._held) - 1)
