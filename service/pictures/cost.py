"""What opening a picture will cost, from its header alone: processor seconds of one ordinary core of today.

An estimate decides who is next and what is refused unopened; it need not be exact, but it is the same for the same
file, however busy the machine is. Measured with pictures of 48 megapixels; a decoder that goes far over it is ended.
"""

from __future__ import annotations

from collections.abc import Callable

from service.pictures import jpeg
from service.pictures.bounds import ImageLimits, webp_size

LEAST_S = 0.002
NS_A_BYTE = 10.0
# Nanoseconds a pixel, beside those a byte. A large JPEG is decoded at a fraction of its size: its are for the reading.
JPEG_NS, SCAN_NS = 3.0, 0.5
WEBP_NS, LOSSLESS_WEBP_NS = 20.0, 30.0
AVIF_NS, HEIF_NS = 20.0, 26.0
PNG_NS, PNG_NS_A_RAW_BYTE, INTERLACED = 6.0, 5.5, 1.5
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def estimate(data: bytes, kind: str, limits: ImageLimits) -> float:
    """Seconds for a picture that `sniff` took for `kind`; LEAST_S for one whose header says nothing: it fails soon.

    No more pixels count than `limits` allow: what has more is refused unopened.
    """
    area, ns = _MEASURES[kind](data)
    return max(LEAST_S, (len(data) * NS_A_BYTE + min(area, int(limits.max_megapixels * 1e6)) * ns) / 1e9)


def _jpeg(data: bytes) -> tuple[int, float]:
    frame = jpeg.frame(data)
    if frame is None:
        return 0, 0.0
    return frame.width * frame.height, JPEG_NS + SCAN_NS * jpeg.scans(data)


def _png(data: bytes) -> tuple[int, float]:
    if data[12:16] != b"IHDR" or len(data) < 29:
        return 0, 0.0
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    raw_bytes = data[24] * _CHANNELS.get(data[25], 4) / 8
    return width * height, (PNG_NS + raw_bytes * PNG_NS_A_RAW_BYTE) * (INTERLACED if data[28] else 1)


def _webp(data: bytes) -> tuple[int, float]:
    size = webp_size(data)
    if size is None:
        return 0, 0.0
    return size[0] * size[1], WEBP_NS if data[12:16] == b"VP8 " else LOSSLESS_WEBP_NS


def _avif(data: bytes) -> tuple[int, float]:
    return _largest(data), AVIF_NS


def _heif(data: bytes) -> tuple[int, float]:
    return _largest(data), HEIF_NS


def _largest(data: bytes) -> int:
    """Pixels of the largest size (ISO/IEC 23008-12, `ispe`) that a file speaks of: the picture, or a grid of tiles."""
    largest, at = 0, data.find(b"ispe")
    while at >= 0:
        width, height = (int.from_bytes(data[side : side + 4], "big") for side in (at + 8, at + 12))
        largest = max(largest, width * height)
        at = data.find(b"ispe", at + 4)
    return largest


_MEASURES: dict[str, Callable[[bytes], tuple[int, float]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "AVIF": _avif,
    "HEIF": _heif,
}
