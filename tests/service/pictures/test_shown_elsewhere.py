"""Pictures that browsers show are shown; those that nobody shows are refused by their name."""

from __future__ import annotations

import io
import struct

import pillow_heif
import pytest
from PIL import Image
from sample_pictures import encoded, picture

from service.errors import InvalidImage, UnsupportedMediaType
from service.pictures import isobmff
from service.pictures.images import decode_photo

pillow_heif.register_heif_opener(thumbnails=False)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def found(data: bytes, *path: bytes) -> isobmff.Box:
    """The last box of a path of kinds, each inside the one before."""
    start, end = 0, len(data)
    for kind in path:
        inner = next(one for one in isobmff.boxes(data, start, end) if one.kind == kind)
        start, end = inner.body + (4 if kind == b"meta" else 0), inner.end
    return inner


def grown(data: bytes, added: bytes, *path: bytes) -> bytes:
    """An AVIF with `added` at the end of the box of a path, and the places of its items moved accordingly."""
    new, place = bytearray(data), found(data, *path).end
    for depth in range(1, len(path) + 1):
        outer = found(data, *path[:depth])
        new[outer.at : outer.at + 4] = struct.pack(">I", outer.end - outer.at + len(added))
    iloc = found(data, b"meta", b"iloc")
    assert data[iloc.body : iloc.body + 6] == b"\0\0\0\0\x44\0"
    for item in range(int.from_bytes(data[iloc.body + 6 : iloc.body + 8], "big")):
        at = iloc.body + 8 + 14 * item + 6
        new[at : at + 4] = struct.pack(">I", int.from_bytes(data[at : at + 4], "big") + len(added))
    new[place:place] = added
    return bytes(new)


def pyramid() -> bytes:
    """As libheif's encoder writes it: the group's own fields come after the ids of its layers."""
    layers = struct.pack(">HHH", 1, 0, 0)
    group = box(b"pymd", struct.pack(">IIII", 0, 77, 1, 1) + struct.pack(">HH", 256, 256) + layers)
    return grown(encoded(picture(), "AVIF"), box(b"grpl", group), b"meta")


def transparent() -> bytes:
    """White is clear."""
    image = picture()
    image.putalpha(image.convert("L").point(lambda value: 255 if value < 255 else 0))
    return encoded(image, "AVIF", quality=90)


def two_tables() -> bytes:
    """As cavif wrote it: a table of properties of its own for the transparency."""
    data = transparent()
    table = found(data, b"meta", b"iprp", b"ipma")
    _, second = isobmff._associations(bytearray(data), table)
    cut = second.places[0] - 3
    own = box(b"ipma", data[table.body : table.body + 4] + struct.pack(">I", 1) + data[cut : table.end])
    # The first keeps its length: what was cut off it is said of an item that there is not.
    new = bytearray(data)
    new[cut : cut + 2] = b"\x7f\xff"
    return grown(bytes(new), own, b"meta", b"iprp")


def sizeless_transparency() -> bytes:
    """As cavif-rs wrote it."""
    data = bytearray(transparent())
    kinds = [inner.kind for inner in isobmff.boxes(data, found(data, b"meta", b"iprp", b"ipco").body, len(data))]
    _, alpha = isobmff._associations(data, found(data, b"meta", b"iprp", b"ipma"))
    names = [kinds[number - 1] for number in alpha.numbers]
    data[alpha.places[names.index(b"ispe")]] = data[alpha.places[names.index(b"auxC")]]
    return bytes(data)


MADE = {
    "a pyramid": (pyramid, lambda: encoded(picture(), "AVIF")),
    "two tables of properties": (two_tables, transparent),
    "transparency without a size": (sizeless_transparency, transparent),
}


@pytest.mark.parametrize("name", list(MADE))
def test_an_avif_that_browsers_show_is_opened_as_what_they_show(name: str) -> None:
    made, plain = MADE[name]
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(made()), formats=("AVIF",))
    assert decode_photo(made()) == decode_photo(plain())


@pytest.mark.parametrize("name", list(MADE))
def test_no_byte_moves_and_a_file_in_order_is_left_alone(name: str) -> None:
    made, plain = MADE[name]
    before, after = made(), isobmff.readable(made())
    assert len(after) == len(before)
    assert 0 < sum(old != new for old, new in zip(before, after, strict=True)) <= 4
    sound = plain()
    assert isobmff.readable(sound) is sound
    for length in range(0, len(before), 7):
        assert len(isobmff.readable(before[:length])) == length


def jpeg_of(process: int, bits: int = 8) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = process, bits
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (jpeg_of(0xC3), "a lossless JPEG"),
        (jpeg_of(0xC3, 16), "a lossless JPEG"),
        (jpeg_of(0xCB), "a lossless JPEG"),
        (jpeg_of(0xC5), "a hierarchical JPEG"),
        (jpeg_of(0xC1, 12), "a JPEG of 12 bits a colour"),
        (encoded(picture(), "HEIF").replace(b"hvc1", b"unci"), "not compressed with HEVC"),
        (encoded(picture(), "HEIF").replace(b"hvc1", b"j2k1"), "not compressed with HEVC"),
    ],
)
def test_what_nobody_shows_is_named_and_not_called_damaged(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        decode_photo(data)
    assert refused.value.code == "unsupported-image-format"
    assert named in refused.value.detail and "damaged" not in refused.value.detail
    assert "and upload that" in refused.value.detail


def test_a_broken_heic_is_called_damaged() -> None:
    whole = encoded(Image.linear_gradient("L").convert("RGB"), "HEIF")
    for data in (whole[: len(whole) // 2], whole[:200], whole.replace(b"hdlr", b"hdlx")):
        with pytest.raises(InvalidImage, match="This HEIC is damaged or cut off") as refused:
            decode_photo(data)
        assert refused.value.code == "damaged-image"


def test_a_heic_of_a_later_brand_is_opened() -> None:
    plain = encoded(picture(), "HEIF")
    end = int.from_bytes(plain[:4], "big")
    brands = b"mif2\0\0\0\0" + b"mif2mif1" + b"miaf" * ((end - 24) // 4)
    later = plain[:8] + brands + plain[end:]
    assert len(later) == len(plain) and b"heic" not in later[:end]
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(later), formats=("HEIF",))
    assert decode_photo(later) == decode_photo(plain)
