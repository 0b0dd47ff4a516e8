"""The picture to edit where only the truth exists: the garment's place greyed, as the edit support has it.

The support is that of `engine_build.support`, as a box: one that followed the garment's outline would tell the network
the shape it has to invent (Choi et al., 2021, hide more for the same reason). What its domain keeps stays: head, hands,
background outside the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine_build.support.domains import DOMAINS, OF_CATEGORY
from engine_build.support.edit_support import Options, edit_support
from engine_build.support.regions import RegionMap

GREY = (128, 128, 128)
BOX = Options("box")
MIN_SHARE = 0.005
"""A garment covering less of a picture than this is not seen."""


def share(regions: RegionMap, names: Sequence[str]) -> float:
    """How much of a picture one of the regions covers."""
    return float(regions.mask(names).mean())


def support_of(regions: RegionMap, categories: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """255 in the edit supports of garments of `categories` on a photo of `size`, else 0.

    Raises SupportError where the photo shows nothing to put one of them in the place of.
    """
    supports = [edit_support(regions, DOMAINS[OF_CATEGORY[name]], BOX, size=size) for name in categories]
    return Image.fromarray(np.logical_or.reduce(supports).astype(np.uint8) * 255)


def greyed(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """A photo with a mask of its size filled in."""
    result = photo.copy()
    result.paste(GREY, mask=mask.point(lambda value: 255 if value >= 128 else 0))
    return result
