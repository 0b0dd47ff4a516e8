"""A painted crop in the light of its photo: what differs around E is taken from what was painted inside.

Only pixels outside E are compared, which the model was shown and painted again: no old garment tints the new one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine_build.support.regions import Mask
from engine_build.support.shapes import box_sums

RING = 0.04
"""How far around E pixels are compared, in shares of the crop's height."""
GAP = 3
"""Pixels next to E that are not compared: shrinking the photo has mixed E's own into them."""
MOST = 40.0
"""A larger difference (of 255) is another thing painted there, not another light."""
SMOOTH = 2
"""Halvings before differences are spread: single edges are not light."""

Planes = npt.NDArray[np.float32]


def matched(painted: Planes, shown: Planes, support: Mask) -> Planes:
    """`painted` (h, w, 3) corrected by its difference from `shown` around `support` (h, w), smoothly spread inwards."""
    ring = _ring(support)
    difference: Planes = shown - painted
    ring &= np.abs(difference).max(2) <= MOST
    if not ring.any() or not support.any():
        return painted
    weight = ring.astype(np.float32)
    return painted + _spread(difference * weight[..., None], weight, SMOOTH)


def _ring(support: Mask) -> Mask:
    wide = GAP + max(2, round(RING * support.shape[0]))
    near, nearest = (box_sums(np.pad(support, radius), radius) > 0 for radius in (wide, GAP))
    ring: Mask = near & ~nearest
    return ring


def _spread(total: Planes, weight: Planes, smooth: int) -> Planes:
    """Weighted values everywhere: near where weights are from there, further away from coarser and coarser means."""
    height, width = weight.shape
    if max(height, width) <= 1:
        return _mean(total, weight)
    pad = ((0, height % 2), (0, width % 2))
    halved = np.pad(weight, pad).reshape((height + 1) // 2, 2, (width + 1) // 2, 2).sum((1, 3))
    totals = np.pad(total, (*pad, (0, 0))).reshape((height + 1) // 2, 2, (width + 1) // 2, 2, 3).sum((1, 3))
    cap = np.maximum(halved, np.float32(1.0))
    coarse = _spread(totals / cap[..., None], halved / cap, smooth - 1)
    large = (coarse.shape[1] * 2, coarse.shape[0] * 2)
    planes = [Image.fromarray(np.ascontiguousarray(coarse[..., c])) for c in range(3)]
    wide = [np.asarray(one.resize(large, Image.Resampling.BILINEAR))[:height, :width] for one in planes]
    below: Planes = np.stack(wide, axis=2)
    if smooth > 0:
        return below
    share = np.clip(weight, 0.0, 1.0)[..., None]
    blend: Planes = share * _mean(total, weight) + (np.float32(1.0) - share) * below
    return blend


def _mean(total: Planes, weight: Planes) -> Planes:
    return (total / np.maximum(weight, np.float32(1e-6))[..., None]).astype(np.float32, copy=False)
