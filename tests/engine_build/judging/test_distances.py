"""Fréchet's and the kernel distance: closed forms, a naive twin, and what clean-fid 0.1.35 says of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from engine_build.errors import RequestError
from engine_build.judging.similarity import distances
from engine_build.judging.similarity.distances import Features, frechet_distance, kernel_distance


def with_moments(mean: Features, covariance: Features, count: int, seed: int = 0) -> Features:
    """(count, D) whose sample mean and unbiased covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return np.asarray(mean + x @ np.linalg.cholesky(covariance).T)


@pytest.mark.parametrize(("count", "d"), [(50, 5), (5, 64), (300, 123), (123, 123)])
def test_equal_sets_are_nowhere_apart(count: int, d: int) -> None:
    x = np.random.default_rng(1).standard_normal((count, d)) * 3 + 1
    assert 0 <= frechet_distance(x, x[::-1]) < 1e-9 * d


def test_gaussians_that_commute_follow_the_closed_form() -> None:
    one, two = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])
    turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))
    a = with_moments(np.array([1.0, 2.0, 3.0]), turn @ np.diag(one) @ turn.T, 40)
    b = with_moments(np.array([0.0, 0.0, 1.0]), turn @ np.diag(two) @ turn.T, 25, seed=1)
    wanted = 1 + 4 + 4 + float(np.square(np.sqrt(one) - np.sqrt(two)).sum())
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-10)


def test_gaussians_of_two_dimensions_follow_the_closed_form() -> None:
    """The trace of the root of a 2 x 2 product P is sqrt(tr P + 2 sqrt(det P)), whether or not they commute."""
    one, two = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.9], [-0.9, 3.0]])
    a, b = with_moments(np.zeros(2), one, 30), with_moments(np.array([0.5, -1.0]), two, 31, seed=1)
    product = one @ two
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 0.25 + 1 + np.trace(one) + np.trace(two) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-10)


def test_clean_fid_says_the_same() -> None:
    dice = np.random.RandomState(0)
    a = dice.randn(60, 8) * np.linspace(0.5, 2, 8) + 0.3
    b = dice.randn(60, 8) @ (np.eye(8) + 0.3 * dice.randn(8, 8))
    assert frechet_distance(a, b) == pytest.approx(6.6063607879621955, rel=1e-12)
    assert kernel_distance(a, b) == (pytest.approx(2.0539490535940788, rel=1e-12), 0.0)
    fewer, than_features = dice.randn(20, 32), dice.randn(25, 32) + 0.2
    # Its root of a product that has no full rank is no more exact than this.
    assert frechet_distance(fewer, than_features) == pytest.approx(22.63555165014408, rel=1e-7)


def naive_mmd(a: Features, b: Features) -> float:
    """Sums of the kernel over pairs, one by one."""

    def kernel(x: Features, y: Features) -> float:
        return float((sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    own_a = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_b = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_a + own_b - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_the_kernel_distance_is_the_naive_sum() -> None:
    dice = np.random.default_rng(7)
    a, b = dice.standard_normal((13, 5)), dice.standard_normal((13, 5)) + 0.4
    assert kernel_distance(a, b)[0] == pytest.approx(naive_mmd(a, b), rel=1e-12)


def test_subsets_average_to_the_whole_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over random subsets estimates the naive sum over everything without bias."""
    monkeypatch.setattr(distances, "SUBSET_SIZE", 12)
    monkeypatch.setattr(distances, "ROWS", 7)
    dice = np.random.default_rng(8)
    a, b = dice.standard_normal((40, 4)), dice.standard_normal((33, 4)) + 0.5
    mean, deviation = kernel_distance(a, b)
    assert abs(mean - naive_mmd(a, b)) < 4 * deviation / np.sqrt(distances.SUBSETS)
    assert kernel_distance(a, b) == (mean, deviation) != kernel_distance(a, b, seed=1)


def test_a_subset_is_the_naive_sum_over_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SUBSETS", 1)
    dice = np.random.default_rng(8)
    a, b = dice.standard_normal((9, 4)), dice.standard_normal((6, 4)) + 0.5
    again = np.random.default_rng(3)
    some_a, some_b = (x[again.choice(len(x), 6, replace=False)] for x in (a, b))
    assert kernel_distance(a, b, seed=3)[0] == pytest.approx(naive_mmd(some_a, some_b), rel=1e-12)


def test_like_sets_of_different_pictures_are_about_nothing_apart() -> None:
    dice = np.random.default_rng(9)
    a, b = dice.standard_normal((2, 500, 8))
    assert abs(kernel_distance(a, b)[0]) < 0.02 < kernel_distance(a, b + 0.3)[0]


def test_one_picture_is_no_set() -> None:
    x = np.zeros((1, 4))
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(RequestError, match="needs two of either"):
            distance(x, np.zeros((5, 4)))
