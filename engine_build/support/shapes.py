"""Growing, closing, frames and boxes of masks on the grid; exact, in numpy, independent of any library's drawing."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine_build.support.regions import Mask


def grow(mask: Mask, radius: float) -> Mask:
    """`mask` (h, w) and whatever lies within `radius` pixels of it."""
    height, width = mask.shape
    reach = int(radius)
    result = np.zeros_like(mask)
    for down in range(-reach, reach + 1):
        source = mask[max(0, -down) : height - max(0, down)]
        if not source.size:
            continue
        across = int(math.sqrt(radius * radius - down * down))
        counts = np.zeros((source.shape[0], width + 2 * across + 1), np.int32)
        np.cumsum(source, axis=1, out=counts[:, across + 1 : across + 1 + width])
        counts[:, across + 1 + width :] = counts[:, across + width : across + width + 1]
        wide = counts[:, 2 * across + 1 :] > counts[:, :width]
        result[max(0, down) : height - max(0, -down)] |= wide
    return result


def shrink(mask: Mask, radius: float) -> Mask:
    """`mask` without what lies within `radius` pixels of its outside; the picture's border is no outside."""
    return ~grow(~mask, radius)


def closed(mask: Mask, radius: float) -> Mask:
    """`mask` with its gaps narrower than twice `radius` filled."""
    edge = int(radius) + 1
    return shrink(grow(np.pad(mask, edge), radius), radius)[edge:-edge, edge:-edge] | mask


def opened(mask: Mask, radius: float) -> Mask:
    """`mask` without what is narrower than twice `radius`."""
    return grow(shrink(mask, radius), radius)


def band(shape: tuple[int, int], rows: tuple[float, float], axis: float, halves: tuple[float, float]) -> Mask:
    """A trapezoid between two rows, symmetrical about column `axis`, `halves` wide to each side above and below."""
    y = np.arange(shape[0])[:, None] + 0.5
    x = np.arange(shape[1])[None, :] + 0.5
    share = np.clip((y - rows[0]) / max(rows[1] - rows[0], 1e-9), 0.0, 1.0)
    half = halves[0] + share * (halves[1] - halves[0])
    inside: Mask = (y >= rows[0]) & (y < rows[1]) & (np.abs(x - axis) <= half)
    return inside


def boxed(mask: Mask) -> Mask:
    """The smallest upright rectangle around a mask; of an empty one, nothing."""
    result = np.zeros_like(mask)
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if len(rows):
        result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return result


def box_sums(mask: Mask, radius: int) -> npt.NDArray[np.int32]:
    """How many pixels of each square of 2 `radius` + 1 are set; (h - 2 radius, w - 2 radius): whole squares alone."""
    side = 2 * radius + 1
    down = np.cumsum(np.pad(mask, ((1, 0), (0, 0))), axis=0, dtype=np.int32)
    down = down[side:] - down[:-side]
    across = np.cumsum(np.pad(down, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    return across[:, side:] - across[:, :-side]
