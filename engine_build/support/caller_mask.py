"""A mask that the caller drew, white = may change: E as it is, or a clear word on what about it cannot be meant.

Pillow alone: a gateway that has neither numpy nor a model checks it before a job is made.
"""

from __future__ import annotations

from PIL import Image, ImageChops, ImageOps

from engine_build.support.domains import Domain
from engine_build.support.errors import SupportError

GREY_SHARE = 0.02
"""So much of a mask may be neither black nor white: smoothed edges."""
LEAST_WHITE = 0.0002
MOST_WHITE = 0.995
BORDER = 0.01
"""Width of the frame that tells a mask from its inverse, in shares of the shorter side."""
_BLACK, _WHITE = 25, 230


def read_mask(mask: Image.Image, size: tuple[int, int], domain: Domain) -> Image.Image:
    """The mask of an upright photo of `size` (width, height) as 0 or 255, of mode L.

    Raises SupportError: mask-size, mask-has-alpha, mask-not-black-and-white, mask-empty, mask-full, mask-inverted.
    """
    upright = ImageOps.exif_transpose(mask)
    _check_size(upright.size, size)
    plane = _plane(upright)
    histogram, pixels = plane.histogram(), size[0] * size[1]
    if sum(histogram[_BLACK:_WHITE]) > GREY_SHARE * pixels:
        raise SupportError(
            "mask-not-black-and-white",
            "the mask has greys: white says what may change, black what stays, and nothing else is meant by it",
        )
    result = plane.point([0] * 128 + [255] * 128)
    white = _white(result)
    if white < LEAST_WHITE:
        raise SupportError("mask-empty", "the mask is black: paint white what may change")
    if white > MOST_WHITE:
        raise SupportError("mask-full", "the mask is white all over: paint black what has to stay")
    _check_polarity(result, white, domain)
    return result


def _check_size(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found == wanted:
        return
    (width, height), (w, h) = wanted, found
    said = f"the mask is {w}x{h}, the photo {width}x{height}"
    if found == wanted[::-1]:
        raise SupportError("mask-size", f"{said}: turn the mask as the photo is seen, after its EXIF orientation")
    if abs(w * height - h * width) <= max(width, height):
        raise SupportError("mask-size", f"{said}: scale the mask to the photo's size")
    raise SupportError("mask-size", f"{said}, another shape: draw the mask on this photo, uncropped")


def _plane(mask: Image.Image) -> Image.Image:
    if mask.mode in ("1", "L"):
        return mask.convert("L")
    if mask.mode not in ("P", "PA", "RGB", "RGBA", "LA"):
        raise SupportError(
            "mask-not-black-and-white", f"a mask is an 8-bit picture in black and white, not {mask.mode}"
        )
    red, green, blue, alpha = mask.convert("RGBA").split()
    if alpha.getextrema() != (255, 255):
        raise SupportError(
            "mask-has-alpha", "the mask is transparent in places: paint it black and white and leave alpha out"
        )
    for other in (green, blue):
        if ImageChops.difference(red, other).point([0] * 16 + [1] * 240).getbbox() is not None:
            raise SupportError("mask-not-black-and-white", "the mask has colours: send white on black, not a picture")
    return red


def _check_polarity(mask: Image.Image, white: float, domain: Domain) -> None:
    """What surrounds a garment or a face stays: a frame of white around most of a picture is a mask turned over."""
    width, height = mask.size
    frame = max(1, round(BORDER * min(width, height)))
    inner = mask.crop((frame, frame, max(frame, width - frame), max(frame, height - frame)))
    inside = inner.size[0] * inner.size[1]
    around = (white * width * height - (_white(inner) * inside if inside else 0.0)) / max(1, width * height - inside)
    of_background = "background" in domain.takes
    if (around < 0.4 and white < 0.5) if of_background else (around > 0.6 and white > 0.5):
        meant = "the background is white and the person black" if of_background else "what stays is black"
        raise SupportError("mask-inverted", f"the mask looks turned over: for {domain.name}, {meant}; invert it")


def _white(mask: Image.Image) -> float:
    return mask.histogram()[255] / (mask.size[0] * mask.size[1])
