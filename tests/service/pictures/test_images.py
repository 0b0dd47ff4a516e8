"""Uploads: every bad picture has its exact code, and what is accepted comes out upright, plain and sRGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from sample_pictures import encoded, jpeg_sized, picture, png

from service.errors import InvalidImage, PayloadTooLarge, ServiceError, UnsupportedMediaType
from service.pictures.bounds import ImageLimits
from service.pictures.images import decode_photo, open_photo

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
SECRET = b"GPS-SECRET-52.5N"
pillow_heif.register_heif_opener(thumbnails=False)


def corners(data: bytes) -> list[tuple[int, ...]]:
    image = open_photo(data)
    w, h = image.size
    return [image.getpixel(at) for at in ((8, 8), (w - 9, 8), (8, h - 9), (w - 9, h - 9))]


def near(found: list[tuple[int, ...]], wanted: list[tuple[int, int, int]], off: int) -> bool:
    return all(
        abs(a - b) <= off
        for one, other in zip(found, wanted, strict=True)
        for a, b in zip(one, other, strict=True)
    )


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

BAD: dict[str, tuple[Callable[[], bytes], type[ServiceError], str, str]] = {
    "empty file": (lambda: b"", InvalidImage, "empty-image", "upload it"),
    "text named .jpg": (
        lambda: b"hello, I am a photo",
        UnsupportedMediaType,
        "unsupported-image-format",
        "text file",
    ),
    "gif": (lambda: encoded(picture(), "GIF"), UnsupportedMediaType, "unsupported-image-format", "GIF"),
    "tiff": (lambda: encoded(picture(), "TIFF"), UnsupportedMediaType, "unsupported-image-format", "TIFF"),
    "bmp": (lambda: encoded(picture(), "BMP"), UnsupportedMediaType, "unsupported-image-format", "BMP"),
    "svg": (lambda: b"<svg xmlns='x'/>", UnsupportedMediaType, "unsupported-image-format", "SVG"),
    "random bytes": (
        lambda: bytes(range(1, 200)),
        UnsupportedMediaType,
        "unsupported-image-format",
        "Send JPEG",
    ),
    "truncated jpeg": (
        lambda: encoded(picture(), "JPEG")[:-900],
        InvalidImage,
        "damaged-image",
        "upload the whole file",
    ),
    "jpeg magic, then nothing": (
        lambda: b"\xff\xd8\xff",
        InvalidImage,
        "damaged-image",
        "upload the whole file",
    ),
    "0 x 0 png": (lambda: png(0, 0), InvalidImage, "zero-size-image", "Export it again"),
    "0 x 0 jpeg": (lambda: jpeg_sized(0, 0), InvalidImage, "damaged-image", "upload the whole file"),
    "30,000 x 30,000 png": (lambda: png(30000, 30000), PayloadTooLarge, "too-many-pixels", "smaller copy"),
    "30,000 x 30,000 jpeg": (
        lambda: jpeg_sized(30000, 30000),
        PayloadTooLarge,
        "too-many-pixels",
        "smaller copy",
    ),
    "61 megapixels": (lambda: jpeg_sized(7811, 7811), PayloadTooLarge, "too-many-pixels", "60 megapixels"),
    "100 megapixels": (lambda: png(10000, 10000), PayloadTooLarge, "too-many-pixels", "60 megapixels"),
    "over 15 MiB": (
        lambda: encoded(picture(), "JPEG") + b"\0" * (15 << 20),
        PayloadTooLarge,
        "image-too-large",
        "smaller copy",
    ),
    "animated png": (
        lambda: encoded(picture(), "PNG", save_all=True, append_images=[Image.new("RGB", (96, 128))]),
        InvalidImage,
        "animated-image",
        "one still frame",
    ),
    "animated webp": (
        lambda: encoded(picture(), "WEBP", save_all=True, append_images=[Image.new("RGB", (96, 128))]),
        InvalidImage,
        "animated-image",
        "one still frame",
    ),
    "animated avif": (
        lambda: encoded(picture(), "AVIF", save_all=True, append_images=[Image.new("RGB", (96, 128))]),
        InvalidImage,
        "animated-image",
        "one still frame",
    ),
    "31 pixels wide": (
        lambda: encoded(picture(31, 64), "PNG"),
        InvalidImage,
        "image-too-small",
        "at least 32",
    ),
    "1:9": (lambda: encoded(picture(40, 361), "PNG"), InvalidImage, "extreme-aspect-ratio", "Crop it"),
    "webp canvas of 16383 squared": (
        lambda: (
            b"RIFF\x30\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\xfe\x3f\x00" * 2 + b"\0" * 32
        ),
        PayloadTooLarge,
        "too-many-pixels",
        "smaller copy",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_picture_is_refused_with_its_code_and_what_to_do(name: str) -> None:
    make, error, code, advice = BAD[name]
    with pytest.raises(error) as refused:
        decode_photo(make())
    assert refused.value.code == code
    assert advice in refused.value.detail


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format(kind: str) -> None:
    photo = decode_photo(encoded(picture(), kind, quality=95))
    assert (photo.width, photo.height) == (96, 128)
    assert photo.content_type == ("image/jpeg" if kind == "JPEG" else "image/png")
    assert near(corners(photo.data), [RED, GREEN, BLUE, WHITE], 24)


def test_a_small_png_keeps_every_pixel() -> None:
    photo = decode_photo(encoded(picture(), "PNG"))
    assert open_photo(photo.data).tobytes() == picture().tobytes()


def test_a_large_picture_is_scaled_down_and_not_stretched() -> None:
    photo = decode_photo(encoded(picture(3000, 2000), "JPEG"))
    assert (photo.width, photo.height) == (2048, 1365)
    photo = decode_photo(encoded(picture(3200, 4000), "JPEG"))
    assert photo.height in range(1536, 2049) and abs(photo.width / photo.height - 0.8) < 0.002
    assert near(corners(photo.data), [RED, GREEN, BLUE, WHITE], 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_gone(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(undo[orientation]) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = decode_photo(encoded(stored, kind, exif=exif.tobytes(), quality=95))
    assert (photo.width, photo.height) == (96, 128)
    assert near(corners(photo.data), [RED, GREEN, BLUE, WHITE], 24)
    assert Image.open(io.BytesIO(photo.data)).getexif() == {}


def test_unreadable_exif_does_not_spoil_a_picture() -> None:
    photo = decode_photo(encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert near(corners(photo.data), [RED, GREEN, BLUE, WHITE], 24)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(96, 128), (700, 900)])
def test_no_metadata_survives(kind: str, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, object] = {"exif": exif.tobytes(), "icc_profile": profile, "quality": 90}
    if kind == "JPEG":
        options |= {"comment": SECRET, "xmp": b"<x>" + SECRET + b"</x>"}
    if kind in ("WEBP", "AVIF", "HEIF"):
        options["xmp"] = b"<x>" + SECRET + b"</x>"
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Comment", SECRET.decode())
        options["pnginfo"] = info
    data = encoded(picture(*size), kind, **options) + SECRET
    assert SECRET in data
    photo = decode_photo(data)
    assert SECRET not in photo.data
    assert b"Exif" not in photo.data and b"ICC_PROFILE" not in photo.data and b"iCCP" not in photo.data
    assert set(Image.open(io.BytesIO(photo.data)).info) <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"quality": 98, "subsampling": "4:4:4"},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_a_plain_jpeg_keeps_its_coefficients(options: dict[str, object]) -> None:
    data = encoded(picture(), "JPEG", comment=SECRET, **options)
    photo = decode_photo(data)
    assert SECRET not in photo.data and len(photo.data) < len(data)
    assert open_photo(photo.data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_transparency_becomes_white() -> None:
    clear = picture().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 30, 30))
    for kind in ("PNG", "WEBP", "AVIF", "HEIF"):
        assert near(
            corners(decode_photo(encoded(clear, kind, quality=95)).data), [WHITE, GREEN, BLUE, WHITE], 24
        )
    grey = Image.new("LA", (64, 64), (0, 0))
    assert corners(decode_photo(encoded(grey, "PNG")).data)[0] == WHITE
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert corners(decode_photo(encoded(palette, "PNG", transparency=0)).data)[0] == WHITE


def test_sixteen_bit_pictures_keep_their_brightness() -> None:
    deep = Image.fromarray(np.full((64, 64), 0x8000, np.uint16))
    assert corners(decode_photo(encoded(deep, "PNG")).data)[0] == (128, 128, 128)
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x8000, 0x4000, 0xFFFF) * 64 for _ in range(64))
    assert corners(decode_photo(png(64, 64, depth=16, raw=rows)).data)[0] == (128, 64, 255)


def test_one_bit_and_grey_pictures() -> None:
    assert corners(decode_photo(encoded(Image.new("1", (64, 64), 1), "PNG")).data)[0] == WHITE
    assert corners(decode_photo(encoded(Image.new("L", (64, 64), 77), "JPEG")).data)[0] == (77, 77, 77)


def test_cmyk_becomes_rgb() -> None:
    inks = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    assert near([corners(decode_photo(encoded(inks, "JPEG", quality=95)).data)[0]], [RED], 4)


def test_a_wide_gamut_profile_is_converted_and_a_broken_one_left_out() -> None:
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    plain = corners(decode_photo(encoded(picture(), "PNG")).data)
    assert corners(decode_photo(encoded(picture(), "PNG", icc_profile=lab_like)).data) == plain
    assert corners(decode_photo(encoded(picture(), "PNG", icc_profile=b"\0" * 200)).data) == plain
    swapped = _swapped_primaries()
    found = corners(decode_photo(encoded(picture(), "PNG", icc_profile=swapped)).data)
    assert near(found, [GREEN, RED, BLUE, WHITE], 8)


def _swapped_primaries() -> bytes:
    """An sRGB profile whose red and green primaries are exchanged, and whose name does not say sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    for at in range(132, 132 + 12 * count, 12):
        tag = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(tag, tag)
    return (
        bytes(data).replace(b"sRGB", b"demo").replace("sRGB".encode("utf-16-be"), "demo".encode("utf-16-be"))
    )


def test_limits_can_be_set() -> None:
    limits = ImageLimits(max_megapixels=0.01, min_side=8)
    assert decode_photo(encoded(picture(16, 16), "PNG"), limits).width == 16
    with pytest.raises(PayloadTooLarge):
        decode_photo(encoded(picture(), "PNG"), limits)
