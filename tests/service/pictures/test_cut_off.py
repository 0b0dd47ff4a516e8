"""JPEGs without their end: accepted with a warning when nearly all is there, refused with what is there otherwise."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from sample_pictures import encoded, picture

from service.errors import InvalidImage
from service.pictures.images import Photo, decode_photo
from service.pictures.pool import ImagePool

KINDS: dict[str, dict[str, object]] = {
    "4:2:0": {},
    "4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 7},
}


def detailed(width: int = 520, height: int = 700) -> Image.Image:
    """A soft picture with noise, so that every part of it takes about as many bytes."""
    soft = np.asarray(picture(width, height), dtype=int)
    noise = np.random.default_rng(1).integers(-20, 21, soft.shape)
    return Image.fromarray(np.clip(soft + noise, 0, 255).astype(np.uint8))


def pixels(photo: Photo | bytes) -> np.ndarray:
    data = photo if isinstance(photo, bytes) else photo.data
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("missing", [3, 33, 100])
def test_a_jpeg_that_lacks_its_last_bytes_is_accepted_with_a_warning(kind: str, missing: int) -> None:
    whole = encoded(detailed(), "JPEG", quality=85, **KINDS[kind])
    photo = decode_photo(whole[:-missing])
    if photo.warning is None:
        assert missing == 3
    else:
        sentence = r"This JPEG is cut off: (\d+(?:\.\d)?)% of it is there, the rest is grey or coarse\."
        found = re.fullmatch(sentence, photo.warning)
        assert found is not None and 99 <= float(found[1]) < 100
    difference = np.abs(pixels(photo) - pixels(whole)).mean(2)
    assert (difference[:-16] < 30).mean() > 0.999


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_jpeg_without_its_last_two_bytes_is_whole(kind: str) -> None:
    whole = encoded(detailed(), "JPEG", quality=85, **KINDS[kind])
    for missing in (1, 2):
        photo = decode_photo(whole[:-missing])
        assert photo.warning is None and (photo.width, photo.height) == (520, 700)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.97])
def test_a_jpeg_that_lacks_more_is_refused(kind: str, part: float) -> None:
    whole = encoded(detailed(), "JPEG", quality=85, **KINDS[kind])
    with pytest.raises(InvalidImage, match="cut off") as refused:
        decode_photo(whole[: int(len(whole) * part)])
    assert refused.value.code == "damaged-image" and "upload the whole file" in refused.value.detail
    said = re.search(r"cut off: (\S+)% of it", refused.value.detail)
    if kind != "progressive":
        assert said is not None and abs(float(said[1]) / 100 - part) < 0.06


def test_a_large_and_turned_one_is_told_the_same_way() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(detailed(2600, 2000), "JPEG", quality=80, exif=exif)
    photo = decode_photo(whole[:-200])
    assert photo.warning is not None and photo.height > photo.width
    assert decode_photo(whole).warning is None


async def test_the_warning_comes_out_of_the_process() -> None:
    whole = encoded(detailed(), "JPEG", quality=85)
    async with ImagePool(workers=1, timeout_s=60) as pool:
        assert (await pool.decode(whole)).warning is None
        assert (await pool.decode(whole[:-33])).warning == decode_photo(whole[:-33]).warning is not None


def test_nothing_that_lacks_more_than_a_hundredth_passes_wherever_it_was_cut() -> None:
    whole = encoded(detailed(160, 160), "JPEG", quality=85, restart_marker_blocks=7, subsampling="4:4:4")
    for missing in range(len(whole) // 50, len(whole) // 8):
        with pytest.raises(InvalidImage):
            decode_photo(whole[:-missing])
