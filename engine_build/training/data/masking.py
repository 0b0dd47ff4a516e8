"""The picture to edit where only the truth exists: the garment's place greyed, generously and coarsely.

A mask that followed the garment's outline would tell the network the shape it has to invent, so the region and the
arms beside it are widened and rounded to blocks (Choi et al., 2021, hide more for the same reason). Head, legs and
background stay.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

GREY = (128, 128, 128)
BLOCKS = 32
"""Blocks along the picture's height."""
MIN_SHARE = 0.005
"""A garment covering less of a picture than this is not seen."""


def region(labels: Image.Image, meant: tuple[int, ...]) -> Image.Image:
    """255 where `labels` is one of `meant`, else 0."""
    return Image.fromarray((np.isin(np.asarray(labels), meant) * 255).astype(np.uint8))


def share(mask: Image.Image) -> float:
    """How much of a mask is set."""
    return float((np.asarray(mask) >= 128).mean())


def coarse(mask: Image.Image) -> Image.Image:
    """A mask widened by half a block and rounded up to blocks."""
    side = max(2, mask.height // BLOCKS)
    wide = mask.filter(ImageFilter.MaxFilter(side // 2 * 2 + 1))
    across, down = -(-mask.width // side), -(-mask.height // side)
    padded = np.zeros((down * side, across * side), np.uint8)
    padded[: mask.height, : mask.width] = np.asarray(wide)
    blocks = padded.reshape(down, side, across, side).max(axis=(1, 3))
    return Image.fromarray(np.kron(blocks, np.ones((side, side), np.uint8))[: mask.height, : mask.width])


def greyed(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """A photo with a mask of its size filled in."""
    result = photo.copy()
    result.paste(GREY, mask=mask.point(lambda value: 255 if value >= 128 else 0))
    return result
