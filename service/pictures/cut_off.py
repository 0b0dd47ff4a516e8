"""A JPEG whose end is missing, as browsers show it: what is there, and grey for the rest.

How much is there is found by going on in two ways: with the end at once, and with some bytes that mean something else.
Up to where the data ended both decode alike; what comes first where they differ is the first that is missing. Data
may have ended just where a restart marker was to follow: then only with that one do other bytes mean anything.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageChops

from service.pictures import jpeg

ENOUGH = 0.99
_END = b"\xff\xd9"
_OTHERWISE = bytes(range(0x51, 0xF1)) * 2


def mended(data: bytes, decoded: Callable[[bytes], Image.Image]) -> tuple[Image.Image, float] | None:
    """The picture, decoded with an end put to it, and which share of it is there; None for a JPEG with an end, or
    without whole scans.
    """
    frame, begun = jpeg.frame(data), jpeg.without_end(data)
    if frame is None or begun is None:
        return None
    image = decoded(begun + _END)
    ways = [_OTHERWISE] if (restart := jpeg.next_restart(begun)) is None else [_OTHERWISE, restart + _OTHERWISE]
    return image, min(_share_before(_difference(image, decoded(begun + way + _END)), frame) for way in ways)


def _difference(one: Image.Image, other: Image.Image) -> Image.Image:
    """Mode L, not 0 where two pictures differ in any channel."""
    bands = ImageChops.difference(one, other).split()
    largest = bands[0]
    for band in bands[1:]:
        largest = ImageChops.lighter(largest, band)
    return largest


def _share_before(difference: Image.Image, frame: jpeg.Frame) -> float:
    """Which share of the picture's MCUs comes before the first that differs, in the order they are coded in.

    Upsampled colours spread a difference one pixel back, which is not counted.
    """
    found = difference.getbbox()
    if found is None:
        return 1.0
    width, height = (frame.mcu[0] * difference.width / frame.width, frame.mcu[1] * difference.height / frame.height)
    columns, rows = -(-difference.width // width), -(-difference.height // height)
    row = int((found[1] + 1) // height) if height > 1 else found[1]
    band = difference.crop((0, int(row * height), difference.width, min(difference.height, int((row + 1) * height))))
    first = band.getbbox()
    column = 0 if first is None else int((first[0] + 1) // width)
    return float((row * columns + column) / (rows * columns))
