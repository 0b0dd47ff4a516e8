"""Pictures from files and bytes: decoded whole or refused with a reason, and encoded for a shard.

A file goes into a shard as it came when it is an upright RGB JPEG, PNG or WebP without private metadata;
anything else is turned upright, made RGB and written anew. Nothing is decoded beyond MAX_PIXELS.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine_build.training.data.entry import Picture

MAX_PIXELS = 64_000_000
JPEG_QUALITY = 95
_KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class BrokenPicture(Exception):
    """A picture that cannot be decoded; the message says why, without the file's name."""


def opened(data: bytes) -> Image.Image:
    """The decoded picture, upright, RGB. Raises BrokenPicture."""
    return _upright(_decoded(data))


def read(path: Path) -> tuple[Image.Image, Picture]:
    """A file decoded, and as a shard holds it. Raises BrokenPicture; FileNotFoundError when there is none."""
    data = path.read_bytes()
    image = _decoded(data)
    plain = image.mode == "RGB" and image.format in _KINDS and not {"exif", "xmp", "comment"} & image.info.keys()
    upright = _upright(image)
    return upright, Picture(data, _KINDS[str(image.format)]) if plain else encoded(upright, lossless=False)


def read_labels(path: Path) -> Image.Image:
    """A map of labels, 8 bit; palettes are dropped, their numbers kept. Raises BrokenPicture or FileNotFoundError."""
    return read_map(path.read_bytes())


def read_map(data: bytes) -> Image.Image:
    """The same of a file's bytes. Raises BrokenPicture."""
    image = _decoded(data)
    if image.mode not in ("L", "P", "1"):
        raise BrokenPicture(f"a map of labels has one channel, not {image.mode}")
    if image.mode == "1":
        return image.convert("L")
    return Image.fromarray(np.asarray(image, dtype=np.uint8))


def encoded(image: Image.Image, lossless: bool = True) -> Picture:
    """PNG, or JPEG without loss of colour resolution."""
    stream = io.BytesIO()
    if lossless:
        image.save(stream, "PNG")
        return Picture(stream.getvalue(), "png")
    image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Picture(stream.getvalue(), "jpg")


def tensor_of(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1] of an RGB picture, (H, W) of a grey one."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).float() / 255
    return values.permute(2, 0, 1).contiguous() if values.ndim == 3 else values


def _decoded(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise BrokenPicture(f"{image.width}x{image.height} pixels are too many")
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenPicture(" ".join(str(error).split()) or type(error).__name__) from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layers = turned.convert("RGBA")
        ground = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(ground, layers).convert("RGB")
    return turned if turned.mode == "RGB" else turned.convert("RGB")
