"""How fairly what there was has been split among tenants who asked for different amounts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def jain(asked: Sequence[float], got: Sequence[float]) -> float:
    """Jain's index of what tenants got over their max-min fair part of what was served; 1 is perfectly fair.

    R. Jain, D. Chiu, W. Hawe, DEC-TR-301 (1984); max-min: nobody is owed more than it asked for, the rest is
    split evenly. Raises ValueError unless both say something of each tenant.
    """
    owed = max_min(asked, sum(got))
    parts = np.array([one / fair for one, fair in zip(got, owed, strict=True) if fair > 0])
    return float(parts.sum() ** 2 / (parts.size * (parts**2).sum())) if parts.any() else 0.0


def max_min(asked: Sequence[float], served: float) -> list[float]:
    """The max-min fair split of `served` among those who asked for so much each."""
    owed = [0.0] * len(asked)
    left, open_to = served, sorted(range(len(asked)), key=lambda index: asked[index])
    while open_to:
        part = left / len(open_to)
        index = open_to.pop(0)
        owed[index] = min(asked[index], part)
        left -= owed[index]
    return owed
