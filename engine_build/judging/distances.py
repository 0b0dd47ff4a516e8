"""How far two sets of pictures lie apart by their features: Fréchet's distance and the kernel distance, in float64.

The definitions are those of clean-fid (Parmar et al., 2022): unbiased covariances, the kernel (x y / D + 1)^3, 100
random subsets of at most 1000. Letters: N, M pictures of either set, D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine_build.errors import RequestError

Features = NDArray[np.float64]
SUBSETS = 100
SUBSET_SIZE = 1000


def frechet_distance(a: Features, b: Features) -> float:
    """FID of features (N, D) and (M, D). Raises RequestError for fewer than two pictures of either.

    The trace of the root of Ca Cb is the nuclear norm of A B^T, where A^T A = Ca and B^T B = Cb: no root of a nearly
    singular product is taken, and equal sets are 0 apart to rounding.
    """
    _at_least_two(a, b)
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    apart = float(np.square(mean_a - mean_b).sum())
    spread = float(np.square(root_a).sum() + np.square(root_b).sum())
    return apart + spread - 2 * float(np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum())


def kernel_distance(a: Features, b: Features, seed: int = 0) -> tuple[float, float]:
    """KID of features (N, D) and (M, D), and its standard deviation over subsets (0 where one subset is everything).

    It is unbiased, so below 0 for sets that are very alike. Raises RequestError for fewer than two pictures of either.
    """
    _at_least_two(a, b)
    size = min(len(a), len(b), SUBSET_SIZE)
    if len(a) == len(b) == size:
        return _mmd(a, b), 0.0
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(SUBSETS):
        some_a, some_b = (x[dice.choice(len(x), size, replace=False)] for x in (a, b))
        found.append(_mmd(some_a, some_b))
    return float(np.mean(found)), float(np.std(found))


def _gaussian(x: Features) -> tuple[Features, Features]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance R^T R of features (N, D)."""
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return mean, centred
    root: Features = np.linalg.qr(centred, mode="r")  # type: ignore[assignment]  # numpy's stub knows one mode only
    return mean, root


def _mmd(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy of as many features (N, D) as (N, D)."""
    n, d = a.shape
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    own = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (n * (n - 1))
    return float(own - 2 * ab.mean())


def _at_least_two(a: Features, b: Features) -> None:
    if min(len(a), len(b)) < 2:
        raise RequestError(f"{len(a)} and {len(b)} pictures: a distance of sets needs two of either")
