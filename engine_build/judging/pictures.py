"""Pictures as they are looked at: found beside their names, upright, RGB."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from engine_build.errors import RequestError
from engine_build.judging.samples import Picture

KINDS = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of a picture's name, in the order they are looked for."""


def result_of(results: Path, sample_id: str) -> Path | None:
    """The picture that a folder of results has for a sample, None when it has none."""
    return next((path for kind in KINDS if (path := results / f"{sample_id}{kind}").is_file()), None)


def upright(picture: Path | Picture) -> Image.Image:
    """A picture as RGB, turned as its EXIF says. Raises RequestError for what is no picture."""
    try:
        data = picture.read_bytes() if isinstance(picture, Path) else picture.data()
        with Image.open(io.BytesIO(data)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        name = picture if isinstance(picture, Path) else picture.path or "a picture of the set"
        raise RequestError(f"{name} cannot be read as a picture: {error}") from error
