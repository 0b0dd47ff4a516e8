"""The outline of a JPEG stands for the whole: what it lets through is what decoding the file would let through."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image
from sample_pictures import encoded, picture

from service.errors import InvalidImage, ServiceError
from service.pictures import jpeg
from service.pictures.bounds import ImageLimits
from service.pictures.images import Photo, decode_photo, open_photo, passes
from service.pictures.pool import ImagePool

LIMITS = ImageLimits()
PLAIN: list[dict[str, object]] = [
    {},
    {"quality": 95},
    {"subsampling": "4:4:4"},
    {"restart_marker_rows": 1},
    {"optimize": True},
    {"keep_rgb": True},
    {"comment": b"at home"},
]
MARKERS = (0x01, 0xC0, 0xC2, 0xC4, 0xC9, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE1, 0xFE)


def by_outline(data: bytes) -> Photo | None:
    """What the pool does with a photo that may stay as it is."""
    outline = jpeg.outline(data)
    size = None if outline is None else passes(outline, LIMITS)
    kept = None if size is None else jpeg.strip(data, 1)
    return None if kept is None or size is None else Photo(kept, "image/jpeg", *size)


@pytest.mark.parametrize("options", PLAIN, ids=str)
def test_a_plain_photo_passes_by_its_outline_alone(options: dict[str, object]) -> None:
    data = encoded(picture(700, 900), "JPEG", **options)
    outline = jpeg.outline(data)
    assert outline is not None and len(outline) < 1000
    assert by_outline(data) == decode_photo(data)


def test_whatever_passes_by_its_outline_is_what_decoding_it_gives() -> None:
    draw = random.Random(11)
    whole = [encoded(picture(*size), "JPEG", **options) for size in ((48, 40), (96, 128)) for options in PLAIN]
    passed = refused = 0
    for _ in range(2500):
        data = damaged(draw.choice(whole), draw)
        photo = by_outline(data)
        if photo is not None:
            passed += 1
            assert decode_photo(data) == photo
            assert open_photo(photo.data).size == (photo.width, photo.height)
        else:
            refused += is_refused(data)
    assert passed > 500 and refused > 500


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """One to three bytes changed, pieces taken out, put in or repeated, mostly where the tables are."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(3, len(data) if draw.random() < 0.6 else min(700, len(data)))
        match draw.randrange(5):
            case 0 | 1:
                data[at] = draw.randrange(256)
            case 2:
                data[at : at + 2] = bytes((0xFF, draw.choice(MARKERS)))
            case 3:
                del data[at : at + draw.randrange(1, 80)]
            case _:
                data[at:at] = data[draw.randrange(len(data)) :][: draw.randrange(1, 200)]
    return bytes(data)


def is_refused(data: bytes) -> bool:
    try:
        decode_photo(data)
    except ServiceError:
        return True
    return False


def test_other_photos_do_not_pass_by_their_outline() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (
        encoded(picture(), "JPEG", progressive=True),
        encoded(picture(), "JPEG", exif=turned.tobytes()),
        encoded(picture(), "JPEG", icc_profile=b"\0" * 200),
        encoded(picture(3000, 2000), "JPEG"),
        encoded(picture().convert("L"), "JPEG"),
        encoded(picture().convert("CMYK"), "JPEG"),
        encoded(picture(31, 64), "JPEG"),
        encoded(picture(), "JPEG")[:-2],
        encoded(picture(), "PNG"),
        b"",
    ):
        assert by_outline(data) is None


def test_tables_after_the_scan_are_left_to_a_decoder() -> None:
    data = encoded(picture(), "JPEG")
    assert by_outline(data) is not None
    broken_table = b"\xff\xc4\x00\x14" + b"\xff" * 18
    assert by_outline(data[:-2] + broken_table + b"\xff\xd9") is None
    with pytest.raises(InvalidImage, match="damaged"):
        decode_photo(data[:-2] + broken_table + b"\xff\xd9")


def test_a_file_of_countless_segments_is_not_walked_to_its_end() -> None:
    data = encoded(picture(), "JPEG")
    comments = b"\xff\xfe\x00\x02" * 5000
    assert jpeg.strip(data[:2] + comments + data[2:]) is None
    assert jpeg.outline(data[:2] + comments + data[2:]) is None
    assert jpeg.strip(data[:2] + comments[:400] + data[2:]) == jpeg.strip(data)


def test_a_marker_is_found_wherever_the_windows_of_the_search_fall() -> None:
    header, scan = encoded(picture(), "JPEG"), 64 << 10
    start = header.index(b"\xff\xda") + 14
    for length in range(scan - 3, scan + 3):
        data = header[:start] + b"\x55" * length + b"\xff\xd9" + b"\0" * 9
        assert jpeg.strip(data) == jpeg.strip(data, 1) == header[:start] + b"\x55" * length + b"\xff\xd9"


async def test_the_pool_keeps_a_plain_photo_and_decodes_the_others() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    async with ImagePool(workers=1, timeout_s=60) as pool:
        for options in ({}, {"progressive": True}, {"exif": turned.tobytes()}, {"quality": 97}):
            data = encoded(picture(700, 900), "JPEG", **options)
            assert await pool.decode(data) == decode_photo(data)


def test_a_photo_of_two_pictures_keeps_the_first() -> None:
    out = io.BytesIO()
    picture().save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (96, 128), "red")])
    photo = decode_photo(out.getvalue())
    assert open_photo(photo.data).tobytes() == open_photo(encoded(picture(), "JPEG")).tobytes()
    assert by_outline(out.getvalue()) in (None, photo)
