"""SSIM of two pictures and where it lies, by torchmetrics, with which CatVTON and FastFit measure.

Gaussian windows of sigma 1.5, 11 pixels wide; the border is mirrored and counts. Away from the border every value is
scikit-image's with gaussian_weights=True and use_sample_covariance=False.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from engine_build.errors import RequestError

WINDOW = 11


def ssim(a: Tensor, b: Tensor) -> float:
    """SSIM of pictures (3, H, W) in [0, 1] of one size. Raises RequestError below 11 pixels a side."""
    return float(ssim_map(a, b).mean())


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """(3, H, W): the SSIM of every window, a channel."""
    if min(a.shape[1:]) < WINDOW:
        raise RequestError(f"SSIM needs pictures of {WINDOW} pixels a side, not {a.shape[2]}x{a.shape[1]}")
    measured = structural_similarity_index_measure(
        a[None].double(), b[None].double(), data_range=1.0, reduction="none", return_full_image=True
    )
    return measured[1][0]
