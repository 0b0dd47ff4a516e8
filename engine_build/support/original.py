"""The upload's own pixels, not a normalised copy: its bits, its alpha, its colour profile; upright, as it was meant.

Grey and palette pictures become the same colours in RGB, which any answer can hold. What has no RGB pixels of its own
(CMYK and the like) cannot be kept and is refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from engine_build.support.errors import SupportError
from engine_build.support.png16 import channels16, read16, written16

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_ORIENTATION = 0x0112
_AS = {"RGB": "RGB", "RGBA": "RGBA", "1": "RGB", "L": "RGB", "LA": "RGBA", "P": "RGB", "PA": "RGBA"}
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, eq=False)
class Original:
    """`pixels` (H, W, 3 or 4) of 8 or 16 bits, upright; `profile` is their ICC profile, None for sRGB."""

    pixels: Pixels
    profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def full(self) -> int:
        """The largest value a channel can have."""
        return 255 if self.pixels.dtype == np.uint8 else 65535


def read_original(data: bytes) -> Original:
    """The pixels of an upload that was found acceptable before: bounds are not looked at here.

    Raises SupportError for a broken picture and for one without RGB pixels of its own.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            deep = channels16(image)
            orientation = image.getexif().get(_ORIENTATION, 1)
            profile = image.info.get("icc_profile") or None
            if deep:
                return Original(_upright(_coloured(read16(data)), orientation), profile)
            if image.mode in ("I;16", "I;16B", "I;16L"):
                return Original(_upright(_coloured(np.asarray(image).astype(np.uint16)[..., None]), orientation))
            if image.mode not in _AS:
                raise SupportError(
                    "picture-mode",
                    f"a picture in {image.mode} cannot be given back with its own pixels: save it as RGB",
                )
            grey = image.mode in ("1", "L", "LA")
            mode = "RGBA" if "transparency" in image.info else _AS[image.mode]
            plain = image if image.mode == mode else image.convert(mode)
            return Original(_upright(np.array(plain), orientation), None if grey else profile)
    except _BROKEN as error:
        raise SupportError("picture-broken", f"the picture cannot be read: {error}") from error


def encoded(original: Original, pixels: Pixels, format: str, *, xmp: bytes | None = None, level: int = 4) -> bytes:
    """`pixels` in place of the original's, as "png" or lossless "webp", with its profile and an XMP packet if given.

    Raises SupportError for a format that would change them.
    """
    deep = pixels.dtype == np.uint16
    if format not in ("png", "webp") or (deep and format == "webp"):
        better = "png, which keeps 16 bits" if deep else "png or webp"
        raise SupportError("lossy-answer", f"{format} would change pixels outside the edit: ask for {better}")
    if deep:
        return b"".join(written16(pixels.astype(np.uint16, copy=False), original.profile, xmp, level))
    picture, out = Image.fromarray(pixels), io.BytesIO()
    if format == "webp":
        with_xmp = {} if xmp is None else {"xmp": xmp}
        picture.save(
            out, "WEBP", lossless=True, exact=True, quality=20, icc_profile=original.profile or b"", **with_xmp
        )
    else:
        info = None
        if xmp is not None:
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(out, "PNG", icc_profile=original.profile, compress_level=level, pnginfo=info)
    return out.getvalue()


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB picture of a profile in sRGB; one whose profile cannot be used is taken for sRGB."""
    return _between(picture, profile, True)


def from_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The way back."""
    return _between(picture, profile, False)


def _between(picture: Image.Image, profile: bytes | None, there: bool) -> Image.Image:
    if profile is None:
        return picture
    try:
        ends = [ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))]
        source, aim = ends if there else reversed(ends)
        transform = ImageCms.buildTransform(source, aim, "RGB", "RGB")
        return ImageCms.applyTransform(picture, transform) or picture
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture


def _coloured(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Grey as RGB, grey with alpha as RGBA."""
    if pixels.shape[2] > 2:
        return pixels
    return np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels (H, W, C) turned and mirrored as EXIF says, each exactly kept."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 3),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, 1),
    }
    if orientation not in turned:
        return pixels
    result: Pixels = np.ascontiguousarray(turned[orientation](pixels))
    return result
