"""How a normalised picture is kept: as it looks, in no more bytes than it came in or its area is worth.

A file of a few kB can decode to noise of many MB; what it is written as again is bounded, so that nobody fills a disk
with little effort.
"""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

BYTES_A_PIXEL = 0.75
LOSSLESS_PIXELS = 512 * 512
# Even noise of extreme colours has at most 0.63 bytes a pixel at the last of these.
QUALITIES = ((95, "4:4:4"), (90, "4:4:4"), (90, "4:2:0"), (80, "4:2:0"), (60, "4:2:0"))


def kept(image: Image.Image, came_in: int, *, lossless: bool) -> tuple[bytes, Literal["image/jpeg", "image/png"]]:
    """The bytes of an RGB picture that came in `came_in` bytes, and their content type.

    They are at most the larger of `came_in` and BYTES_A_PIXEL times the area, and a JPEG's header. A small picture
    that came `lossless` or nearly so is PNG when that fits, anything else JPEG in the best quality that fits.
    """
    area = image.width * image.height
    most = max(came_in, int(area * BYTES_A_PIXEL))
    if lossless and area <= LOSSLESS_PIXELS:
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=3)
        if out.tell() <= most:
            return out.getvalue(), "image/png"
    data = b""
    for quality, subsampling in QUALITIES:
        data = jpeg_of(image, quality, subsampling)
        if len(data) <= most:
            break
    return data, "image/jpeg"


def jpeg_of(image: Image.Image, quality: int, subsampling: str) -> bytes:
    """An RGB picture as a JPEG without metadata."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()
