"""Photos of 48 megapixels, as phones take them: accepted, and no more in memory at once than before."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageChops
from sample_pictures import encoded, jpeg_sized, picture, png

from service.errors import PayloadTooLarge
from service.pictures.bounds import ImageLimits
from service.pictures.flat import flat
from service.pictures.images import decode_photo
from service.pictures.pool import ImagePool

PHONE = (8064, 6048)
PEAK_KIB = 900 * 1024
pillow_heif.register_heif_opener(thumbnails=False)


def photo(width: int, height: int) -> Image.Image:
    """Red at the top left, blue at the bottom right."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("blue", (width // 2, height // 2, width, height))
    return image


def of_a_phone(kind: str) -> bytes:
    if kind == "turned jpeg":
        exif = Image.Exif()
        exif[0x0112] = 6
        return encoded(photo(*PHONE).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=30, exif=exif)
    if kind == "progressive jpeg":
        return encoded(photo(*PHONE), "JPEG", quality=30, progressive=True, subsampling="4:4:4")
    if kind == "heic":
        return encoded(photo(*PHONE), "HEIF", quality=10)
    image = photo(*PHONE)
    image.putalpha(255)
    return encoded(image, "PNG", compress_level=1)


def peak_kib(process: int) -> int:
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize("kind", ["turned jpeg", "progressive jpeg", "heic", "png with alpha"])
async def test_a_photo_of_48_megapixels_is_accepted_within_the_same_memory(kind: str) -> None:
    data = of_a_phone(kind)
    async with ImagePool(workers=1, cpu_s=60, timeout_s=120) as pool:
        stored = await pool.decode(data)
        (process,) = pool.processes()
        peak = peak_kib(process)
    assert peak < PEAK_KIB
    shown = Image.open(io.BytesIO(stored.data))
    assert shown.size == (stored.width, stored.height) and 1536 <= max(shown.size) <= 2048
    assert abs(shown.width / shown.height - PHONE[0] / PHONE[1]) < 0.01
    (red, blue) = shown.getpixel((100, 100)), shown.getpixel((shown.width - 100, shown.height - 100))
    assert isinstance(red, tuple) and isinstance(blue, tuple)
    assert red[0] > 200 > 60 > red[2] and blue[2] > 200 > 60 > blue[0]


@pytest.mark.parametrize(
    ("data", "sides"),
    [
        (jpeg_sized(9000, 7000), "9000 by 7000"),
        (png(9000, 7000), "9000 by 7000"),
        (encoded(photo(96, 128), "HEIF"), "9000 by 7000"),
        (encoded(photo(96, 128), "AVIF"), "9000 by 7000"),
    ],
    ids=["jpeg", "png", "heic", "avif"],
)
async def test_what_is_larger_is_refused_in_a_whole_sentence(data: bytes, sides: str) -> None:
    if b"ispe" in data:
        at = data.index(b"ispe") + 8
        data = data[:at] + (9000).to_bytes(4, "big") + (7000).to_bytes(4, "big") + data[at + 8 :]
    async with ImagePool(workers=1, timeout_s=60) as pool:
        with pytest.raises(PayloadTooLarge) as refused:
            await pool.decode(data)
    assert refused.value.code == "too-many-pixels"
    assert refused.value.detail == (
        f"This picture is {sides} pixels, more than the 60 megapixels accepted. Upload a smaller copy."
    )


def test_a_library_that_refuses_first_still_makes_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(PayloadTooLarge, match=r"^This picture has more than the 60 megapixels accepted\. Upload"):
        decode_photo(encoded(picture(), "PNG"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(1030, 777), (777, 1030), (401, 259)])
def test_made_smaller_in_bands_it_looks_as_in_one_piece(mode: str, size: tuple[int, int]) -> None:
    whole = picture(*size)
    if mode == "RGBA":
        whole.putalpha(Image.linear_gradient("L").resize(size))
    elif mode == "I;16":
        whole = Image.fromarray(np.asarray(whole.convert("L"), dtype=np.uint16) * 257)
    elif mode != "RGB":
        whole = whole.convert("RGBA").convert(mode) if mode == "LA" else whole.convert(mode)
    small = flat(whole, 128)
    assert max(small.size) == 128 and small.mode in ("L", "RGB", "CMYK")
    once = flat(whole, max(size)).resize(small.size, Image.Resampling.LANCZOS)
    difference = np.asarray(ImageChops.difference(small, once), dtype=float)
    assert difference.mean() < 3


def test_a_picture_that_fits_is_not_touched() -> None:
    whole = picture(300, 200)
    assert flat(whole, 300) is whole


def test_limits_say_sixty() -> None:
    assert ImageLimits().max_megapixels == 60
