"""Files no camera writes, made on the spot: bombs, files that are two things at once, damaged ones."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pillow_heif
from PIL import Image, PngImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
MARK = b"<script>alert('hostile')</script>"
pillow_heif.register_heif_opener(thumbnails=False)


def plain(width: int = 96, height: int = 128, colour: str = "teal") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def small(kind: str) -> bytes:
    """A small sound file with some detail in it."""
    image = Image.linear_gradient("L").resize((48, 40)).convert("RGB")
    return encoded(image, kind, quality=40)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, *chunks: bytes, rows: int | None = None) -> bytes:
    """An RGB PNG of zeros; `rows` of them are there."""
    packer, body = zlib.compressobj(1), b""
    for _ in range(height if rows is None else rows):
        body += packer.compress(b"\0" * (width * 3 + 1))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", body + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def costly_png(side: int) -> bytes:
    """A square RGB PNG of 16 bits, all of it there, in few bytes: what costs most to open of what is accepted."""
    packer, row = zlib.compressobj(6), b"\4" + b"\0" * (side * 6)
    body = packer.compress(b"\4" + b"\1\2\3\4\5\6" * side)
    for _ in range(side - 1):
        body += packer.compress(row)
    head = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, part) for name, part in ((b"IHDR", head), (b"IDAT", body + packer.flush()), (b"IEND", b""))
    )


def inflating(size: int) -> bytes:
    """`size` zero bytes, deflated."""
    packer = zlib.compressobj(1)
    block, body = b"\0" * (1 << 20), b""
    for _ in range(size >> 20):
        body += packer.compress(block)
    return body + packer.flush()


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG of 36 megapixels whose last scan comes again and again."""
    data = encoded(plain(6000, 6000), "JPEG", progressive=True, quality=20)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def claiming(data: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC whose header (`ispe`) claims another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def huge_webp(kind: bytes) -> bytes:
    """A WebP of 16,383 pixels squared that holds almost nothing, lossy (VP8) or lossless (VP8L)."""
    data = bytearray(encoded(plain(64, 64), "WEBP", lossless=kind == b"VP8L"))
    assert data[12:16] == kind
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little") & ~0xFFFFFFF | 16382 | 16382 << 14
        data[21:25] = bits.to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", 16383, 16383)
    return bytes(data)


def frames(kind: str, count: int) -> bytes:
    still = [plain(64, 64, f"#{number % 256:02x}4080") for number in range(count)]
    return encoded(still[0], kind, save_all=True, append_images=still[1:], duration=10)


def with_text(size: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * size, zip=True)
    return encoded(plain(), "PNG", pnginfo=info)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.html", MARK)
    return out.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "png, 100 megapixels, all there": (lambda: png_of(10_000, 10_000), ("too-many-pixels",)),
    "png, 2 billion pixels wide": (lambda: png_of(2_000_000_000, 40, rows=0), ("too-many-pixels",)),
    "png, sides that overflow": (lambda: png_of(0xFFFFFFFF, 0xFFFFFFFF, rows=0), ("too-many-pixels",)),
    "png, profile of 64 MB": (
        lambda: png_of(64, 64, png_chunk(b"iCCP", b"x\0\0" + inflating(64 << 20))),
        ("damaged-image",),
    ),
    "png, text of 64 MB": (
        lambda: png_of(64, 64, png_chunk(b"zTXt", b"x\0\0" + inflating(64 << 20))),
        ("damaged-image",),
    ),
    "png, 300 frames": (lambda: frames("PNG", 300), ("animated-image",)),
    "webp, 300 frames": (lambda: frames("WEBP", 300), ("animated-image",)),
    "avif, 30 frames": (lambda: frames("AVIF", 30), ("animated-image",)),
    "gif, 300 frames": (lambda: frames("GIF", 300), ("unsupported-image-format",)),
    "webp, 16,383 squared, lossy": (lambda: huge_webp(b"VP8 "), ("too-many-pixels",)),
    "webp, 16,383 squared, lossless": (lambda: huge_webp(b"VP8L"), ("too-many-pixels",)),
    "avif that claims 30,000 squared": (
        lambda: claiming(small("AVIF"), 30_000, 30_000),
        ("too-many-pixels", "damaged-image"),
    ),
    "heic that claims 30,000 squared": (
        lambda: claiming(small("HEIF"), 30_000, 30_000),
        ("too-many-pixels", "damaged-image"),
    ),
    "jpeg, 36 megapixels, 400 scans": (lambda: scan_bomb(400), ("image-too-costly", "decoder-busy")),
}

# Refused for what they begin as, whatever follows.
MASKED: dict[str, bytes] = {
    "html before a jpeg": b"<!doctype html>" + MARK + small("JPEG"),
    "pdf before a jpeg": b"%PDF-1.7\n" + small("JPEG"),
    "gif before a jpeg": b"GIF89a" + small("JPEG"),
    "svg before a png": b"<svg xmlns='http://www.w3.org/2000/svg'>" + MARK + b"</svg>" + small("PNG"),
    "zip before a png": zipped() + small("PNG"),
    "a byte before a png": b"\0" + small("PNG"),
    "a script": b"#!/bin/sh\nrm -rf /\n",
}

# Sound pictures that carry something else; what is stored and served must not.
CARRIERS: dict[str, bytes] = {
    "jpeg and html, in a comment": encoded(plain(), "JPEG", comment=MARK),
    "jpeg and html, behind": encoded(plain(), "JPEG") + MARK,
    "jpeg and html, in exif": encoded(plain(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + MARK),
    "png and zip, behind": encoded(plain(), "PNG") + zipped() + MARK,
    "png and html, in text": png_of(96, 128, png_chunk(b"tEXt", b"x\0" + MARK)),
    "webp and html, in a chunk": encoded(plain(), "WEBP", xmp=MARK),
    "avif and html, in xmp": encoded(plain(), "AVIF", xmp=MARK),
    "heic and html, in xmp": encoded(plain(), "HEIF", xmp=MARK),
}


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Sound small files of every format with random damage; each has a name that says how it came about."""
    draw = random.Random(seed)
    whole = {kind: small(kind) for kind in FORMATS}
    for number in range(count):
        kind = draw.choice(FORMATS)
        data = bytearray(whole[kind])
        how = draw.choice(("flip", "flip", "cut", "double", "splice", "fill", "number"))
        at = draw.randrange(4, len(data))
        span = draw.randrange(1, 64)
        if how == "flip":
            for _ in range(draw.randrange(1, 16)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        elif how == "cut":
            del data[at : at + span]
        elif how == "double":
            data[at:at] = data[at : at + span] * draw.randrange(1, 9)
        elif how == "splice":
            other = whole[draw.choice(FORMATS)]
            data[at:] = other[draw.randrange(len(other)) :]
        elif how == "fill":
            data[at : at + span] = bytes([draw.choice((0, 0x7F, 0x80, 0xFF))]) * span
        else:
            data[at : at + 4] = struct.pack(draw.choice((">I", "<I")), draw.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
        yield f"{kind.lower()}-{how}-seed{seed}-{number}", bytes(data)
