"""A painted crop back into its photo: inside E what was painted, outside E the upload's own pixels, each of them.

Blended inwards only: the share of the painted crop is the mean over a square of E less a border as wide as that square,
so it is 0 outside E, 1 well inside, and never changes by more than 1 in 2 r + 1 from one pixel to the next. Composed in
strips: beside the answer itself, memory is that of a strip and of the crop at the model's size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine_build.support.colour_match import matched
from engine_build.support.errors import SupportError
from engine_build.support.original import Original, Pixels, from_srgb
from engine_build.support.regions import Mask
from engine_build.support.shapes import box_sums
from engine_build.support.window import Window, own_crop

FEATHER = 0.005
"""Half the width of the blend, in shares of the window's height."""
_STRIP = 1 << 19
"""Pixels of a strip."""

Shares = npt.NDArray[np.float32]


def composite(original: Original, painted: Image.Image, window: Window, support: Mask) -> Pixels:
    """The original (H, W, C) with `painted` (of `window.size`, sRGB) in E (H, W); a new array of the same kind.

    Raises SupportError for a crop or support of another size.
    """
    if support.shape != original.pixels.shape[:2] or painted.size != window.size:
        raise SupportError(
            "crop-mismatch",
            f"the photo is {original.size}, its support {support.shape[::-1]}; the crop is to be {window.size}, "
            f"not {painted.size}",
        )
    own = np.asarray(from_srgb(painted.convert("RGB"), original.profile)).astype(np.float32)
    lit = matched(own, own_crop(original, window), window.inside(support)) * np.float32(original.full / 255)
    planes = [Image.fromarray(np.ascontiguousarray(lit[..., c])) for c in range(3)]
    left, top, right, bottom = window.box
    result = original.pixels.copy()
    radius = max(1, round(FEATHER * window.height))
    scale = window.size[1] / window.height
    rows = max(16, _STRIP // window.width)
    for start in range(top, bottom, rows):
        end = min(bottom, start + rows)
        if not support[start:end, left:right].any():
            continue
        share = blend(support, (start, end, left, right), radius)
        region = (0.0, (start - top) * scale, float(window.size[0]), (end - top) * scale)
        size = (right - left, end - start)
        fresh = np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC, region)) for p in planes], axis=2)
        _lay(result[start:end, left:right], fresh, share, original.full)
    return result


def blend(support: Mask, part: tuple[int, int, int, int], radius: int) -> Shares:
    """Shares of what is painted in rows and columns `part` (start, end, left, right) of E (H, W).

    Where the picture ends E does not: nothing is blended along its borders.
    """
    start, end, left, right = part
    halo = 2 * radius
    rows = np.clip(np.arange(start - halo, end + halo), 0, support.shape[0] - 1)
    columns = np.clip(np.arange(left - halo, right + halo), 0, support.shape[1] - 1)
    around = support[rows[:, None], columns]
    whole = (2 * radius + 1) ** 2
    return box_sums(box_sums(around, radius) == whole, radius).astype(np.float32) / np.float32(whole)


def check_untouched(before: Pixels, after: Pixels, support: Mask) -> None:
    """Raises SupportError unless every pixel outside E (H, W) is as it was, in every channel."""
    if before.shape != after.shape or before.dtype != after.dtype:
        raise SupportError(
            "pixels-outside-changed", f"{before.shape} {before.dtype} became {after.shape} {after.dtype}"
        )
    rows = max(1, _STRIP // before.shape[1])
    for row in range(0, before.shape[0], rows):
        part = slice(row, row + rows)
        wrong = (before[part] != after[part]).any(2) & ~support[part]
        if wrong.any():
            y, x = (int(v[0]) for v in np.nonzero(wrong))
            raise SupportError("pixels-outside-changed", f"pixel ({x}, {row + y}) outside the edit was changed")


def _lay(under: Pixels, fresh: npt.NDArray[np.float32], share: Shares, full: int) -> None:
    """`fresh` over `under` in place by `share`; alpha grows where something is painted."""
    touched = share > 0
    part = share[touched][:, None]
    old = under[touched].astype(np.float32)
    colour = fresh[touched]
    if under.shape[2] == 4:
        alpha = old[:, 3:] / full
        opacity = alpha + part - alpha * part
        mixed = (colour * part + old[:, :3] * alpha * (1 - part)) / opacity
        new = np.concatenate([mixed, opacity * full], axis=1)
    else:
        new = old + (colour - old) * part
    under[touched] = np.rint(np.clip(new, 0, full)).astype(under.dtype)
