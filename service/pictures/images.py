"""Pictures in and out: hostile uploads to upright, metadata-free sRGB, and results to marked files.

`decode_photo` is meant to run in `service.pictures.pool`, where a picture that takes too long or too much memory
ends a process and not the gateway. A photo that can stay as it is is decoded once, by the worker: `passes` tells
from its outline. Formats are an allow-list by magic bytes; every bound is checked from the header before a pixel is
decoded.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import AvifImagePlugin, Image, ImageCms, ImageOps

from service.errors import InvalidImage, ServiceError, UnsupportedMediaType
from service.pictures import cut_off, isobmff, jpeg
from service.pictures.bounds import MIB, ImageLimits, animated, check_size, sniff, too_many_pixels
from service.pictures.flat import flat
from service.pictures.kept import jpeg_of, kept
from service.pictures.provenance import marked

CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

PASS_BYTES = 4 * MIB

_PROFILE_BYTES = 4 * MIB
_NAMES = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "AVIF": "AVIF", "HEIF": "HEIC"}

# Everything decoders were seen to raise on damaged files.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Photo:
    """A normalised picture: 8-bit sRGB, upright, without metadata. `data` is JPEG or PNG.

    `warning` says what is wrong with a picture that was accepted all the same.
    """

    data: bytes
    content_type: Literal["image/jpeg", "image/png"]
    width: int
    height: int
    warning: str | None = None


def decode_photo(data: bytes, limits: ImageLimits | None = None) -> Photo:
    """Check and normalise one upload.

    Raises UnsupportedMediaType (not on the allow-list), PayloadTooLarge (bytes or pixels over their limit)
    and InvalidImage (empty, damaged, animated, too small, too long), each with a stable code.
    """
    limits = limits or ImageLimits()
    kind = sniff(data, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _normalised(data, kind, limits)
    except MemoryError:
        raise InvalidImage(
            "This picture needs too much memory to open. Save it again as a plain JPEG and upload that.",
            code="image-too-costly",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_many_pixels(limits) from None
    except _BROKEN as error:
        raise InvalidImage(
            f"This {_NAMES[kind]} is damaged or cut off and cannot be read to its end. "
            "Export it again or take the photo anew, then upload the whole file.",
            code="damaged-image",
        ) from error


def passes(outline: bytes, limits: ImageLimits) -> tuple[int, int] | None:
    """(width, height) of a JPEG that needs nothing but its metadata removed, seen from its `jpeg.outline`.

    None for one that has to be decoded, or that `decode_photo` will refuse and say why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(outline), formats=("JPEG",))
            size = image.size
            check_size(*size, limits)
            if not _as_it_is(image, limits):
                return None
            _read_through(image)
            return size
    except (ServiceError, MemoryError, Image.DecompressionBombError, *_BROKEN):
        return None


def warm_up() -> None:
    """Load every decoder, each to use one thread, so that a process's first picture pays for nothing."""
    import pillow_heif  # noqa: F401

    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    decode_photo(jpeg_of(Image.new("RGB", (64, 64)), 90, "4:2:0"))


def open_photo(data: bytes) -> Image.Image:
    """The RGB pixels of a normalised picture (`Photo.data`). Raises InvalidImage for anything else."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        image.load()
        if image.mode == "RGB":
            image.info = {}
        return _bare(image)
    except _BROKEN as error:
        raise InvalidImage("the stored picture cannot be read", code="damaged-image") from error


def encode_result(image: Image.Image, format: str, quality: int = 90) -> bytes:
    """A result as "jpeg", "png" or "webp" with the trainedAlgorithmicMedia mark and no other metadata.

    `quality` is 1 to 100 and means nothing to PNG. Raises ValueError for another format or quality.
    """
    if format not in CONTENT_TYPES:
        raise ValueError(f"unknown output format {format!r}: one of {', '.join(CONTENT_TYPES)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is 1 to 100, not {quality}")
    bare = _bare(image)
    out = io.BytesIO()
    if format == "jpeg":
        subsampling = "4:4:4" if quality >= 90 else "4:2:0"
        bare.save(out, "JPEG", quality=quality, subsampling=subsampling, **marked(format))
    elif format == "webp":
        bare.save(out, "WEBP", quality=quality, method=2, **marked(format))
    else:
        bare.save(out, "PNG", compress_level=4, **marked(format))
    return out.getvalue()


def preview_jpeg(image: Image.Image, long_side: int = 256, quality: int = 70) -> bytes:
    """A small JPEG for progress events, at most `long_side` pixels long, without metadata."""
    small = _bare(image).copy()
    small.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
    return jpeg_of(small, quality, "4:2:0")


def _normalised(data: bytes, kind: str, limits: ImageLimits) -> Photo:
    image = _opened(data, kind)
    check_size(*image.size, limits)
    if kind in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        raise animated()
    if kind == "JPEG" and _as_it_is(image, limits):
        stripped = jpeg.strip(data)
        if stripped is not None and len(stripped) <= PASS_BYTES:
            size = image.size
            _read_through(image)
            return Photo(stripped, "image/jpeg", *size)
    turned = _orientation(image) != 1
    profile = _profile(image)
    whole, warning = _loaded(image, data, limits)
    plain = _srgb(flat(whole, limits.long_side), profile)
    if turned:
        plain.info = whole.info
        plain = ImageOps.exif_transpose(plain)
    plain = _bare(plain)
    kept_as, content_type = kept(plain, len(data), lossless=kind != "JPEG")
    return Photo(kept_as, content_type, *plain.size, warning)


def _opened(data: bytes, kind: str) -> Image.Image:
    """The picture of a file that `sniff` took for `kind`, not yet decoded."""
    if kind == "HEIF":
        _check_codec(data)
        return _heif(io.BytesIO(data))  # `Image.open` would ask for brands once more, and knows fewer
    if kind == "AVIF":
        data = isobmff.readable(data)
    return Image.open(io.BytesIO(data), formats=(kind,))


def _heif(file: io.BytesIO) -> Image.Image:
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    opened: Image.Image = pillow_heif.HeifImageFile(file)
    return opened


def _loaded(image: Image.Image, data: bytes, limits: ImageLimits) -> tuple[Image.Image, str | None]:
    """The pixels of an opened picture, no more of them than needed where its format allows that, and a warning.

    Raises InvalidImage for a JPEG of which too much is missing.
    """

    def pixels(image: Image.Image) -> Image.Image:
        if max(image.size) > limits.long_side:
            image.draft("RGB", _at_least(image.size, limits.long_side * 3 // 4))
        image.load()
        return image

    def decoded(data: bytes) -> Image.Image:
        return pixels(Image.open(io.BytesIO(data), formats=("JPEG",)))

    mended = cut_off.mended(data, decoded) if image.format == "JPEG" else None
    if mended is None:
        return pixels(image), None
    whole, share = mended
    there = f"{math.floor(share * 1000) / 10:g}% of it is there"
    if share < cut_off.ENOUGH:
        raise InvalidImage(
            f"This JPEG is cut off: {there}. Export it again or take the photo anew, then upload the whole file.",
            code="damaged-image",
        )
    return whole, None if share == 1 else f"This JPEG is cut off: {there}, the rest is grey or coarse."


def _check_codec(data: bytes) -> None:
    """A HEIC whose picture is not compressed as phones do is no damaged one."""
    codecs = isobmff.codecs(data)
    if codecs and not codecs & {b"hvc1", b"hev1"}:
        raise UnsupportedMediaType(
            "This HEIC is not compressed with HEVC, as those of phones are, and few programs show it. "
            "Save it as JPEG and upload that.",
            code="unsupported-image-format",
        )


def _as_it_is(image: Image.Image, limits: ImageLimits) -> bool:
    """Whether a JPEG is upright, sRGB and small enough already."""
    fits = image.mode == "RGB" and max(image.size) <= limits.long_side
    return fits and _orientation(image) == 1 and _profile(image) is None


def _read_through(image: Image.Image) -> None:
    """Decode a JPEG's every coefficient at an eighth of its size: finds all damage at half the cost."""
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 for none or for EXIF that cannot be read, which does not spoil a picture."""
    try:
        value = image.getexif().get(0x0112, 1)
    except _BROKEN:
        image.info.pop("exif", None)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _profile(image: Image.Image) -> bytes | None:
    """The ICC profile, unless there is none, it is oversized, or it is sRGB already."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or len(profile) > _PROFILE_BYTES:
        return None
    return None if b"sRGB" in profile[:1024] or b"s\x00R\x00G\x00B" in profile[:1024] else profile


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    return image.convert("RGB") if converted is None else converted


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None for a profile that is broken or belongs to another colour space: then it is left out."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, *_BROKEN):
        return None


def _bare(image: Image.Image) -> Image.Image:
    """The picture in RGB without metadata for an encoder to carry over: itself, or a copy where it is not so."""
    if image.mode == "RGB" and not image.info:
        return image
    bare = image.convert("RGB")
    bare.info = {}
    return bare


def _at_least(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    scale = long_side / max(size)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
