"""The few statistics that tell how far numbers can be trusted. NumPy alone; the random numbers are always the same.

Letters: N units (samples), R values a unit, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 20260419
_CELLS = 1 << 22


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap interval of the mean at LEVEL, by percentiles; of fewer than two values there is none (NaN)."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return math.nan, math.nan
    rng, means, rows = np.random.default_rng(_SEED), [], max(1, _CELLS // len(x))
    for begun in range(0, RESAMPLES, rows):
        picked = rng.integers(0, len(x), (min(rows, RESAMPLES - begun), len(x)))
        means.append(x[picked].mean(1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def krippendorff(units: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha with the interval metric; units with fewer than two values say nothing.

    1 is agreement, 0 what chance gives. NaN without units, or where all values are the same.
    """
    rated = [np.asarray(unit, dtype=np.float64) for unit in units if len(unit) > 1]
    if not rated:
        return math.nan
    everything = np.concatenate(rated)
    n = len(everything)
    observed = sum(_squares(unit) / (len(unit) - 1) for unit in rated) / n
    expected = _squares(everything) / (n * (n - 1))
    return 1 - observed / expected if expected else math.nan


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings, ties allowed; NaN where one of them is all ties."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) != len(y):
        raise ValueError("two rankings of the same things expected")
    concordant, tied_x, tied_y = 0, 0, 0
    for i in range(len(x) - 1):
        dx, dy = np.sign(x[i + 1 :] - x[i]), np.sign(y[i + 1 :] - y[i])
        concordant += int((dx * dy).sum())
        tied_x += int((dx == 0).sum())
        tied_y += int((dy == 0).sum())
    pairs = len(x) * (len(x) - 1) // 2
    scale = math.sqrt((pairs - tied_x) * (pairs - tied_y))
    return concordant / scale if scale else math.nan


def _squares(x: NDArray[np.float64]) -> float:
    """Sum of (x_i - x_j)^2 over all ordered pairs."""
    return float(2 * (len(x) * (x * x).sum() - x.sum() ** 2))
