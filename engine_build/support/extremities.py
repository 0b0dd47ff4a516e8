"""Hands and feet of parsers that know only arms and legs: the end of each limb, as long as a hand or a foot is.

What lies farthest from the head ends a limb. A hand raised to the head is taken for an arm.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from engine_build.support.figure import figure
from engine_build.support.regions import LABEL, Labels, Mask

HAND = 0.125
FOOT = 0.05
"""Lengths in shares of the body below the chin."""


def with_extremities(labels: Labels, limbs: Sequence[tuple[str, Mask]], named: Collection[str]) -> Labels:
    """`labels` (h, w) with the ends of `limbs` (arms or legs, each where one of them is seen) as hands and feet.

    Regions `named` by the parser itself are left as they are, and legs where shoes are seen: they end in those.
    """
    head = labels == LABEL["face"]
    rows, columns = np.nonzero(head if head.any() else labels != LABEL["background"])
    if not len(rows):
        return labels
    centre, body = (rows.mean(), columns.mean()), figure(labels).body
    result = labels.copy()
    for limb, seen in limbs:
        end, length = ("hands", HAND) if limb == "arms" else ("feet", FOOT)
        if end in named or not seen.any() or (limb == "legs" and (labels == LABEL["shoes"]).any()):
            continue
        r, c = np.nonzero(seen)
        away = np.hypot(r - centre[0], c - centre[1])
        tip = away > away.max() - length * body
        result[r[tip], c[tip]] = LABEL[end]
    return result
