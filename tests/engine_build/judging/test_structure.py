"""SSIM beside a naive float64 twin, and beside what scikit-image 0.26.0 says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.judging.similarity.structure import ssim, ssim_map

Pixels = NDArray[np.float64]


def pair() -> tuple[Pixels, Pixels]:
    """(40, 33, 3), of which scikit-image was asked."""
    dice = np.random.RandomState(1)
    a = dice.rand(40, 33, 3)
    return a, np.clip(a + 0.2 * dice.randn(40, 33, 3), 0, 1)


def tensor(x: Pixels) -> Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)


def naive(a: Pixels, b: Pixels) -> Pixels:
    """(30, 23, 3): every whole window of 11 x 11 by the definition."""
    along = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(along, along)[:, :, None] / along.sum() ** 2
    rows = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (weights * p).sum((0, 1)), (weights * q).sum((0, 1))
            var_p, var_q = (weights * (p - mean_p) ** 2).sum((0, 1)), (weights * (q - mean_q) ** 2).sum((0, 1))
            both = (weights * (p - mean_p) * (q - mean_q)).sum((0, 1))
            top = (2 * mean_p * mean_q + 0.01**2) * (2 * both + 0.03**2)
            rows.append(top / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2)))
    return np.array(rows).reshape(a.shape[0] - 10, a.shape[1] - 10, 3)


def test_every_whole_window_is_the_definition() -> None:
    a, b = pair()
    found = ssim_map(tensor(a), tensor(b))
    assert found.shape == (3, 40, 33)
    np.testing.assert_allclose(found[:, 5:-5, 5:-5].permute(1, 2, 0), naive(a, b), rtol=1e-9)


def test_scikit_image_says_the_same_away_from_the_border() -> None:
    """structural_similarity(a, b, channel_axis=2, data_range=1, gaussian_weights=True, use_sample_covariance=False)."""
    a, b = pair()
    inner = ssim_map(tensor(a), tensor(b))[:, 5:-5, 5:-5]
    assert float(inner.mean()) == pytest.approx(0.8291287166630958, rel=1e-12)
    assert ssim(tensor(a), tensor(b)) == pytest.approx(0.819227158689565, rel=1e-12)


def test_a_picture_is_itself_and_a_small_one_is_refused() -> None:
    a, _ = pair()
    assert ssim(tensor(a), tensor(a)) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(RequestError, match="11 pixels a side, not 33x10"):
        ssim(tensor(a)[:, :10], tensor(a)[:, :10])
