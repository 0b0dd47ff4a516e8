"""What an upload may be: formats by magic bytes, bounds read from the header before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import InvalidImage, PayloadTooLarge, UnsupportedMediaType
from service.pictures import jpeg

MIB = 1 << 20
ACCEPTED = "JPEG, PNG, WebP, AVIF or HEIC"

_HEIF_STILL = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"MiHE", b"miaf"})
_HEIF_MOVING = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})

# What a rejected file most likely is, so that the message can name it.
_OTHERS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF or raw photo"),
    (b"MM\x00*", "a TIFF or raw photo"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an SVG or XML file"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"PK\x03\x04", "a ZIP archive"),
)


@dataclass(frozen=True)
class ImageLimits:
    """Bounds of one upload. Sides are pixels; a longer picture is scaled down to `long_side`."""

    max_bytes: int = 15 * MIB
    max_megapixels: float = 60
    min_side: int = 32
    max_aspect: float = 8
    long_side: int = 2048


def sniff(data: bytes, limits: ImageLimits) -> str:
    """Pillow's name of the format: JPEG, PNG, WEBP, AVIF or HEIF.

    Raises InvalidImage (empty, animated), PayloadTooLarge and UnsupportedMediaType.
    """
    if not data:
        raise InvalidImage("This picture is an empty file. Choose the photo again and upload it.", code="empty-image")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(
            f"This picture has {len(data) / MIB:.1f} MiB; at most {limits.max_bytes / MIB:.0f} MiB "
            "are accepted. Upload a smaller copy.",
            code="image-too-large",
        )
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data)
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if data[12:16] == b"IHDR" and len(data) >= 24:
            check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), limits)
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_webp(data, limits)
        return "WEBP"
    if data[4:8] == b"ftyp":
        size = max(16, min(int.from_bytes(data[:4], "big"), 256))
        brands = {data[at : at + 4] for at in (8, *range(16, size, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if data[8:12] in _HEIF_MOVING:
            raise animated()
        if brands & _HEIF_STILL:
            return "HEIF"
    head = data[:64].lstrip()
    guess = next((name for magic, name in _OTHERS if head.startswith(magic)), None)
    if guess is None:
        guess = "a text file" if _is_text(data[:512]) else "something else"
    raise UnsupportedMediaType(
        f"This file is not a picture that can be opened here (it looks like {guess}). Send {ACCEPTED}.",
        code="unsupported-image-format",
    )


def _is_text(head: bytes) -> bool:
    return b"\x00" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _check_jpeg(data: bytes) -> None:
    """Kinds of JPEG that neither browsers nor phones show are named, instead of calling the file damaged."""
    frame = jpeg.frame(data)
    if frame is None:
        return
    if frame.process in jpeg.LOSSLESS:
        kind = "a lossless JPEG, as medical and camera software writes it"
    elif frame.bits != 8 and frame.process in jpeg.SHOWN:
        kind = f"a JPEG of {frame.bits} bits a colour"
    elif frame.process not in jpeg.SHOWN:
        kind = "a hierarchical JPEG"
    else:
        return
    raise UnsupportedMediaType(
        f"This is {kind}, which no browser or phone shows. Save it as an ordinary JPEG or as PNG and upload that.",
        code="unsupported-image-format",
    )


def _check_webp(data: bytes, limits: ImageLimits) -> None:
    """Pillow's WebP decoder allocates its canvas on opening, so its bounds are read from the header here."""
    if data[12:16] == b"VP8X" and len(data) >= 30 and data[20] & 0x02:
        raise animated()
    size = webp_size(data)
    if size is not None:
        check_size(*size, limits)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by RFC 9649: the canvas of VP8X, or the picture's own size in VP8 (lossy) and VP8L (lossless)."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Raises PayloadTooLarge for too many pixels, InvalidImage for too few or too narrow a picture."""
    said = f"This picture is {width} by {height} pixels"
    if width < 1 or height < 1:
        raise InvalidImage(f"{said}: it holds nothing. Export it again and upload that.", code="zero-size-image")
    if width * height > limits.max_megapixels * 1e6:
        raise too_many_pixels(limits, (width, height))
    if min(width, height) < limits.min_side:
        raise InvalidImage(
            f"{said}, too small to show a person or a garment. Send one of at least "
            f"{limits.min_side} pixels on each side.",
            code="image-too-small",
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise InvalidImage(
            f"{said}, too long and narrow. Crop it to at most {limits.max_aspect:.0f} times as long as wide.",
            code="extreme-aspect-ratio",
        )


def too_many_pixels(limits: ImageLimits, size: tuple[int, int] | None = None) -> PayloadTooLarge:
    said = "This picture has" if size is None else f"This picture is {size[0]} by {size[1]} pixels,"
    return PayloadTooLarge(
        f"{said} more than the {limits.max_megapixels:g} megapixels accepted. Upload a smaller copy.",
        code="too-many-pixels",
    )


def animated() -> InvalidImage:
    return InvalidImage(
        "This picture is animated. Send one still frame of it, saved as JPEG or PNG.", code="animated-image"
    )
