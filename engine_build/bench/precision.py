"""How far each fast way of computing may be from float32, and how that is measured.

The budgets are for the bundled `nano`: small networks average out less rounding than large ones, so a larger
checkpoint is expected to stay inside them. Measured values are in BENCHMARKS.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """The most relative L2 error of one velocity, and the least PSNR of the picture (dB), against float32."""

    velocity: float
    psnr: float


BUDGETS = {
    "bfloat16": Budget(velocity=0.03, psnr=42.0),
    "fp8": Budget(velocity=0.10, psnr=33.0),
}


def relative_l2(actual: Tensor, truth: Tensor) -> float:
    """`|actual - truth| / |truth|` over all elements, in float64."""
    truth = truth.double()
    return float((actual.double() - truth).norm() / truth.norm())


def psnr(actual: Image.Image, truth: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures of one size, in dB; infinite when they are equal."""
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (actual, truth))
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
