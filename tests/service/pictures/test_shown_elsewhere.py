"""Pictures that browsers show are shown; those that nobody shows are refused by their name."""

from __future__ import annotations

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


def with_groups(data: bytes, groups: bytes) -> bytes:
    """An AVIF with a `grpl` box at the end of its `meta`, and the place of its only item moved accordingly."""
    added = box(b"grpl", groups)
    kinds = {kind: (start, end) for kind, start, end in isobmff._boxes(data, 0, len(data))}
    start, end = kinds[b"meta"]
    place = kinds[b"mdat"][0] + 8
    head = data[start:end].replace(struct.pack(">I", place), struct.pack(">I", place + len(added)))
    assert head != data[start:end]
    return data[:start] + struct.pack(">I", end - start + len(added)) + head[4:] + added + data[end:]


def pyramid() -> bytes:
    """As libheif's encoder writes it: the group's own fields come after the ids of its layers."""
    layers = struct.pack(">HHH", 1, 0, 0)
    group = box(b"pymd", struct.pack(">IIII", 0, 77, 1, 1) + struct.pack(">HH", 256, 256) + layers)
    return with_groups(encoded(picture(), "AVIF"), group)


def test_an_avif_pyramid_is_opened_as_the_picture_it_shows_first() -> None:
    data = pyramid()
    assert (decode_photo(data).width, decode_photo(data).height) == (96, 128)
    assert decode_photo(data).data == decode_photo(encoded(picture(), "AVIF")).data


def test_groups_are_freed_and_nothing_else_is_touched() -> None:
    data = pyramid()
    freed = isobmff.without_groups(data)
    assert len(freed) == len(data) and freed == data.replace(b"grpl", b"free")
    plain = encoded(picture(), "AVIF")
    assert isobmff.without_groups(plain) is plain
    for length in range(0, len(data), 7):
        assert len(isobmff.without_groups(data[:length])) == length


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
