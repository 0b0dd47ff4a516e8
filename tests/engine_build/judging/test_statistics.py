"""The statistics against numbers from their literature and against plain definitions."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from engine_build.judging.statistics import interval, kendall, krippendorff

N = math.nan
CODERS = (
    (N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3),
    (1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N),
    (N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4),
)
"""Three coders and fifteen units, the worked example of Krippendorff's alpha: 0.811 with the interval metric."""


def test_krippendorff_is_that_of_the_worked_example() -> None:
    units = [[v for v in unit if not math.isnan(v)] for unit in zip(*CODERS, strict=True)]
    assert krippendorff(units) == pytest.approx(0.811, abs=5e-4)
    assert krippendorff([[1, 1], [9, 9]]) == 1 and krippendorff([[1, 9], [9, 1]]) < 0
    assert math.isnan(krippendorff([[3], [4]])) and math.isnan(krippendorff([[3, 3], [3, 3]]))


def test_kendall_counts_pairs_and_corrects_for_ties() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]) == 1 and kendall([1, 2, 3, 4], [9, 7, 5, 3]) == -1
    a, b = [12, 2, 1, 12, 2], [1, 4, 7, 1, 0]
    assert kendall(a, b) == pytest.approx(-0.4714045)
    dice = random.Random(3)
    x, y = ([dice.randrange(5) for _ in range(40)] for _ in range(2))
    signs = [((x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])) for i, j in combinations(range(40), 2)]
    scale = math.sqrt(sum(p != 0 for p, _ in signs) * sum(q != 0 for _, q in signs))
    assert kendall(x, y) == pytest.approx(sum(p * q for p, q in signs) / scale)
    assert math.isnan(kendall([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="same things"):
        kendall([1], [1, 2])


def test_bootstrap_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    dice = random.Random(1)
    covered = 0
    for _ in range(100):
        low, high = interval([dice.gauss(5, 2) for _ in range(60)])
        covered += low <= 5 <= high
    assert 88 <= covered <= 99
    assert interval([1, 2, 3, 4]) == interval([1, 2, 3, 4])
    assert all(map(math.isnan, interval([1])))
