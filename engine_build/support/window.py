"""The crop of a photo that an expert paints: E with context around it, at a size the model takes, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine_build.support.errors import SupportError
from engine_build.support.original import Original, to_srgb
from engine_build.support.regions import Mask

CONTEXT = 0.2
"""How much is seen around E to each side, in shares of its larger side."""
MAX_ASPECT = 2.0
"""A longer E gets more context beside it, where the photo has any."""
_ROWS = 256


@dataclass(frozen=True)
class Window:
    """`box` (left, top, right, bottom) in pixels of the photo, `size` (width, height) in pixels of the model."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def width(self) -> int:
        """In pixels of the photo."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """In pixels of the photo."""
        return self.box[3] - self.box[1]

    def inside(self, support: Mask) -> Mask:
        """E (H, W) of the whole photo as the model's (h, w)."""
        return np.asarray(_shrunk(self, lambda part: support[part] * np.uint8(255), Image.Resampling.BILINEAR)) > 127


def whole(size: tuple[int, int], area: int, multiple: int) -> Window:
    """All of a photo of `size`, at about `area` pixels, sides multiples of `multiple`."""
    return Window((0, 0, *size), _model_size(size, area, multiple))


def window_around(support: Mask, area: int, multiple: int, context: float = CONTEXT) -> Window:
    """The window of E (H, W): `context` around it, within the photo, at about `area` pixels.

    Raises SupportError for an empty E.
    """
    height, width = support.shape
    rows, columns = np.nonzero(support.any(1))[0], np.nonzero(support.any(0))[0]
    if not len(rows):
        raise SupportError("nothing-to-edit", "the edit support is empty")
    spans = [(int(columns[0]), int(columns[-1]) + 1, width), (int(rows[0]), int(rows[-1]) + 1, height)]
    pad = max(end - start for start, end, _ in spans) * context
    sides = [end - start + 2 * pad for start, end, _ in spans]
    longer = max(sides)
    sides = [
        max(side, longer / MAX_ASPECT, min(2.0 * multiple, most))
        for side, (_, _, most) in zip(sides, spans, strict=True)
    ]
    placed = [_placed(span, side) for span, side in zip(spans, sides, strict=True)]
    size = _model_size((placed[0][1] - placed[0][0], placed[1][1] - placed[1][0]), area, multiple)
    aspect = size[0] / size[1]
    wide, tall = (end - start for start, end in placed)
    if wide < tall * aspect:
        placed[0] = _placed(spans[0], tall * aspect)
    else:
        placed[1] = _placed(spans[1], wide / aspect)
    return Window((placed[0][0], placed[1][0], placed[0][1], placed[1][1]), size)


def own_crop(original: Original, window: Window) -> npt.NDArray[np.float32]:
    """The window (h, w, 3) at the model's size in the original's own colours, from 0 to 255, alpha over white."""

    def flat(where: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        part = original.pixels[where]
        if part.shape[2] == 3 and original.full == 255:
            return part.astype(np.uint8, copy=False)
        colour = part[..., :3].astype(np.float32) * np.float32(255 / original.full)
        if part.shape[2] == 4:
            colour = 255 + (colour - 255) * (part[..., 3:].astype(np.float32) / original.full)
        rounded: npt.NDArray[np.uint8] = np.rint(colour).astype(np.uint8)
        return rounded

    return np.asarray(_shrunk(window, flat, Image.Resampling.LANCZOS)).astype(np.float32)


def crop(original: Original, window: Window) -> Image.Image:
    """The window as a model sees it: RGB, sRGB, of `window.size`."""
    picture = Image.fromarray(np.rint(own_crop(original, window)).astype(np.uint8))
    return to_srgb(picture, original.profile)


def _shrunk(
    window: Window, part_of: Callable[[tuple[slice, slice]], npt.NDArray[np.uint8]], filter: Image.Resampling
) -> Image.Image:
    """The window at the model's size, read in strips, each first averaged down to about twice that size."""
    left, top, right, bottom = window.box
    factor = max(1, min(window.width // window.size[0], window.height // window.size[1]) // 2)
    rows = max(1, _ROWS // factor) * factor
    strips = []
    for row in range(top, bottom, rows):
        part = np.ascontiguousarray(part_of((slice(row, min(bottom, row + rows)), slice(left, right))))
        strips.append(np.asarray(Image.fromarray(part).reduce(factor)))
    smaller = Image.fromarray(np.concatenate(strips))
    return smaller.resize(window.size, filter, (0.0, 0.0, window.width / factor, window.height / factor))


def _placed(span: tuple[int, int, int], side: float) -> tuple[int, int]:
    """`side` pixels about the middle of (start, end, most), shifted and cut to lie in 0..most."""
    start, end, most = span
    length = min(most, max(end - start, round(side)))
    first = min(max(0, round((start + end - length) / 2)), most - length)
    return first, first + length


def _model_size(size: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """Multiples nearest to the aspect of `size` at `area`."""
    scale = math.sqrt(area / (size[0] * size[1]))
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in size)
    return width, height
