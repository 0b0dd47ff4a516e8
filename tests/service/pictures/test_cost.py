"""Estimates: from the header alone, whatever the file; more for more work."""

from __future__ import annotations

import pillow_heif
import pytest
from PIL import Image
from sample_pictures import encoded, picture, png

from service.errors import ServiceError
from service.pictures.bounds import ImageLimits, sniff
from service.pictures.cost import LEAST_S, estimate

LIMITS = ImageLimits()
pillow_heif.register_heif_opener(thumbnails=False)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")


def cost(data: bytes) -> float:
    return estimate(data, sniff(data, LIMITS), LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_cost_more(kind: str) -> None:
    small, large = (encoded(Image.new("RGB", (side, side), "teal"), kind) for side in (1024, 2048))
    assert cost(small) > LEAST_S and 3 * cost(small) < cost(large) < 1


def test_depth_channels_and_interlacing_cost_more() -> None:
    costs = [cost(png(6000, 6000, depth, colour)) for depth, colour in ((8, 0), (8, 2), (16, 2), (16, 6))]
    assert costs == sorted(costs) and costs[-1] > 2 * costs[0]
    interlaced = bytearray(png(6000, 6000, 16, 6))
    interlaced[28] = 1
    assert cost(bytes(interlaced)) > costs[-1]


def test_scans_of_a_progressive_jpeg_count() -> None:
    data = encoded(picture(800, 800), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 400 + b"\xff\xd9"
    assert cost(bomb) > 10 * cost(data)


def test_lossless_webp_and_its_canvas_count() -> None:
    image = picture(900, 700)
    assert cost(encoded(image, "WEBP", lossless=True)) > 1.2 * cost(encoded(image, "WEBP"))
    image.putalpha(128)
    extended = encoded(image, "WEBP")
    assert extended[12:16] == b"VP8X" and cost(extended) > 5 * LEAST_S


def test_a_header_that_lies_cannot_make_a_picture_dearer_than_the_largest() -> None:
    data = bytearray(encoded(picture(), "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = b"\xff" * 8
    assert cost(bytes(data)) < 3.5


@pytest.mark.parametrize("kind", FORMATS)
def test_any_piece_of_a_file_has_an_estimate(kind: str) -> None:
    whole = encoded(picture(48, 40), kind, quality=30)
    for length in range(len(whole)):
        try:
            assert LEAST_S <= cost(whole[:length]) < 1
        except ServiceError:
            continue
