"""What a picture is kept as: never more bytes than it came in or its area is worth."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sample_pictures import encoded, picture

from service.pictures.images import decode_photo
from service.pictures.kept import BYTES_A_PIXEL, kept


def noise(size: int, *, bits: int) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 1 << bits, (size, size, 3 if bits > 1 else 1))
    return Image.fromarray(
        np.repeat(values, 1 if bits > 1 else 3, axis=2).astype(np.uint8) * (255 // ((1 << bits) - 1))
    )


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("size", [64, 512, 513, 1024])
def test_noise_is_bounded_by_its_area(size: int, bits: int) -> None:
    data, _ = kept(noise(size, bits=bits), 100, lossless=True)
    header = 1000 if size == 64 else 0
    assert len(data) <= BYTES_A_PIXEL * size * size + header


def test_a_small_file_of_much_noise_is_not_stored_as_many_times_its_size() -> None:
    tile = np.asarray(noise(256, bits=1).convert("1"))
    came = encoded(Image.fromarray(np.tile(tile, (8, 8))), "PNG", optimize=True)
    assert len(came) < 600_000
    stored = decode_photo(came)
    assert (stored.width, stored.height) == (2048, 2048)
    assert len(stored.data) <= max(len(came), BYTES_A_PIXEL * 2048 * 2048)


def test_a_small_picture_that_came_without_loss_stays_so() -> None:
    whole = picture(400, 300)
    stored = decode_photo(encoded(whole, "PNG"))
    assert stored.content_type == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.data))), np.asarray(whole))
    assert len(kept(noise(128, bits=8), 1 << 20, lossless=True)[0]) > 3 * 128 * 128


def test_a_detailed_picture_keeps_the_best_quality_that_fits() -> None:
    detailed = picture(900, 700)
    data, kind = kept(detailed, 1 << 20, lossless=True)
    sampling = Image.open(io.BytesIO(data))
    assert kind == "image/jpeg" and sampling.layer[0][1:3] == sampling.layer[1][1:3]
