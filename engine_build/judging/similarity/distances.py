"""How far two sets of pictures lie apart by their features: Fréchet's distance and the kernel distance, in float64.

The definitions are those of clean-fid (Parmar et al., 2022): unbiased covariances, the kernel (x y / D + 1)^3, 100
random subsets of at most 1000. Letters: N, M pictures of either set, D features,
S subsets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine_build.errors import RequestError

Features = NDArray[np.float64]
SUBSETS = 100
SUBSET_SIZE = 1000
ROWS = 1024


def frechet_distance(a: Features, b: Features) -> float:
    """FID of features (N, D) and (M, D). Raises RequestError for fewer than two pictures of either.

    The trace of the root of Ca Cb is the nuclear norm of A B^T, where A^T A = Ca and B^T B = Cb: no root of a nearly
    singular product is taken, and equal sets are 0 apart to rounding.
    """
    _at_least_two(a, b)
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    apart = float(np.square(mean_a - mean_b).sum())
    spread = float(np.square(root_a).sum() + np.square(root_b).sum())
    shared = float(np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum())
    return max(0.0, apart + spread - 2 * shared)  # rounding alone could take it below


def kernel_distance(a: Features, b: Features, seed: int = 0) -> tuple[float, float]:
    """KID of features (N, D) and (M, D), and its standard deviation over subsets (0 where one subset is everything).

    It is unbiased, so below 0 for sets that are very alike. Raises RequestError for fewer than two pictures of either.
    """
    _at_least_two(a, b)
    size = min(len(a), len(b), SUBSET_SIZE)
    whole = len(a) == len(b) == size
    dice = np.random.default_rng(seed)
    in_a, in_b = (_subsets(len(x), size, 1 if whole else SUBSETS, dice) for x in (a, b))
    own = _sums(a, a, in_a, in_a) + _sums(b, b, in_b, in_b)
    own -= sum(subsets @ _kernel(np.square(x).sum(1), x.shape[1]) for x, subsets in ((a, in_a), (b, in_b)))
    found = own / (size * (size - 1)) - 2 * _sums(a, b, in_a, in_b) / size**2
    return float(found.mean()), float(found.std())


def _gaussian(x: Features) -> tuple[Features, Features]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance R^T R of features (N, D)."""
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return mean, centred
    root: Features = np.linalg.qr(centred, mode="r")  # type: ignore[assignment]  # numpy's stub knows one mode only
    return mean, root


def _subsets(count: int, size: int, times: int, dice: np.random.Generator) -> Features:
    """(S, N): 1 for what a subset takes, else 0."""
    found = np.zeros((times, count))
    for subset in found:
        subset[dice.choice(count, size, replace=False)] = 1
    return found


def _sums(a: Features, b: Features, in_a: Features, in_b: Features) -> Features:
    """(S,): the kernel of a (N, D) and b (M, D) summed over the pairs that each subset takes of both.

    Every kernel is reckoned once, and only some rows of it stand at a time.
    """
    total = np.zeros(len(in_a))
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        total += ((in_a[:, rows] @ _kernel(a[rows] @ b.T, a.shape[1])) * in_b).sum(1)
    return total


def _kernel(products: Features, d: int) -> Features:
    shifted = products / d + 1
    return shifted * shifted * shifted


def _at_least_two(a: Features, b: Features) -> None:
    if min(len(a), len(b)) < 2:
        raise RequestError(f"{len(a)} and {len(b)} pictures: a distance of sets needs two of either")
