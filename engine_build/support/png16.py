"""PNG of 16 bits a channel: Pillow opens it with 8. Its decoder gives high and low bytes in two readings."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

Pixels16 = npt.NDArray[np.uint16]

_CHANNELS = {"I;16B": 1, "LA;16B": 2, "RGB;16B": 3, "RGBA;16B": 4}
_COLOUR_TYPE = {3: 2, 4: 6}
_ROWS = 128


def channels16(image: Image.Image) -> int:
    """Channels of a PNG opened but not loaded, if it has 16 bits each; else 0."""
    if not isinstance(image, PngImageFile) or len(image.tile) != 1:
        return 0
    return _CHANNELS.get(str(image.tile[0].args), 0)


def read16(data: bytes) -> Pixels16:
    """(H, W, C) of a PNG of 16 bits a channel, C as in the file. Raises OSError for a damaged one."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        count = channels16(image)
        if count == 1:
            return np.asarray(image).astype(np.uint16)[..., None]
    if count == 2:
        pairs = _read(data, "RGBA", "RGBA").reshape(*_size(data), 2, 2).astype(np.uint16)
        joined: Pixels16 = pairs[..., 0] << np.uint16(8) | pairs[..., 1]
        return joined
    mode = "RGB" if count == 3 else "RGBA"
    result = _read(data, mode, f"{mode};16B").astype(np.uint16)
    result <<= 8
    result |= _read(data, mode, f"{mode};16L")
    return result


def written16(pixels: Pixels16, profile: bytes | None, xmp: bytes | None, level: int) -> Iterator[bytes]:
    """The PNG of (H, W, 3 or 4) pixels in pieces, with a colour profile and an XMP packet if given."""
    height, width, count = pixels.shape
    yield b"\x89PNG\r\n\x1a\n"
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPE[count], 0, 0, 0))
    if profile is not None:
        yield _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if xmp is not None:
        yield _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    packer = zlib.compressobj(level)
    for top in range(0, height, _ROWS):
        rows = pixels[top : top + _ROWS].astype(">u2").reshape(-1, width * count).view(np.uint8)
        filtered = np.ones((rows.shape[0], rows.shape[1] + 1), np.uint8)  # filter 1: less the pixel on the left
        filtered[:, 1:] = rows
        filtered[:, 1 + 2 * count :] -= rows[:, : -2 * count]
        yield _chunk(b"IDAT", packer.compress(filtered.tobytes()))
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _read(data: bytes, mode: str, raw: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        assert isinstance(image, PngImageFile)
        image._mode = mode
        image.tile = [image.tile[0]._replace(args=raw)]
        image.info.pop("transparency", None)
        return np.asarray(image)


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return image.height, image.width


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
