"""Masks that callers draw: taken as they are, or refused with a code that says which mistake it was."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from support_figures import standing

from engine_build.support.caller_mask import read_mask
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import drawn_support, edit_support
from engine_build.support.errors import SupportError

SIZE = (288, 384)


def mask_of(domain: str) -> Image.Image:
    return Image.fromarray(edit_support(standing(), DOMAINS[domain], size=SIZE).astype(np.uint8) * 255)


def refused(mask: Image.Image, domain: str = "top", size: tuple[int, int] = SIZE) -> SupportError:
    with pytest.raises(SupportError) as caught:
        read_mask(mask, size, DOMAINS[domain])
    return caught.value


@pytest.mark.parametrize("domain", list(DOMAINS))
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "P"])
def test_a_good_mask_of_any_mode_is_the_support_itself(domain: str, mode: str) -> None:
    mask = mask_of(domain)
    read = read_mask(mask.convert(mode), SIZE, DOMAINS[domain])
    assert read.mode == "L" and np.array_equal(np.asarray(read), np.asarray(mask))
    assert np.array_equal(drawn_support(read, standing(), DOMAINS[domain]), np.asarray(mask) > 127)


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_a_mask_turned_over_is_told_by_its_frame(domain: str) -> None:
    error = refused(ImageOps.invert(mask_of(domain)), domain)
    assert error.code == "mask-inverted" and "invert" in str(error)


def test_a_mask_turned_over_within_its_frame_is_told_by_the_regions() -> None:
    inverse = ImageOps.invert(mask_of("top"))
    framed = np.asarray(inverse).copy()
    framed[:10], framed[-10:], framed[:, :10], framed[:, -10:] = 0, 0, 0, 0
    read = read_mask(Image.fromarray(framed), SIZE, DOMAINS["top"])
    drawn_support(read, None, DOMAINS["top"])
    with pytest.raises(SupportError) as caught:
        drawn_support(read, standing(), DOMAINS["top"])
    assert caught.value.code == "mask-inverted"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((144, 192), "scale the mask"),
        ((384, 288), "EXIF orientation"),
        ((288, 300), "uncropped"),
        ((287, 384), "288x384"),
    ],
)
def test_masks_of_another_size_or_shape_are_told_what_is_wrong(size: tuple[int, int], said: str) -> None:
    error = refused(mask_of("top").resize(size))
    assert error.code == "mask-size" and said in str(error)


def test_a_masks_own_orientation_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    import io

    out = io.BytesIO()
    mask_of("top").transpose(Image.Transpose.ROTATE_90).save(out, "PNG", exif=exif)
    read = read_mask(Image.open(io.BytesIO(out.getvalue())), SIZE, DOMAINS["top"])
    assert np.array_equal(np.asarray(read), np.asarray(mask_of("top")))


def test_greys_colours_and_alpha_are_no_masks_and_smoothed_edges_are() -> None:
    mask = mask_of("top")
    assert refused(mask.filter(ImageFilter.GaussianBlur(20))).code == "mask-not-black-and-white"
    tinted = Image.merge("RGB", (mask, mask, Image.new("L", SIZE, 0)))
    assert refused(tinted).code == "mask-not-black-and-white"
    assert refused(mask.convert("CMYK")).code == "mask-not-black-and-white"
    alpha = mask.convert("RGBA")
    alpha.putalpha(mask)
    assert refused(alpha).code == "mask-has-alpha"
    smooth = mask.filter(ImageFilter.GaussianBlur(0.7))
    assert np.array_equal(
        np.asarray(read_mask(smooth, SIZE, DOMAINS["top"])), np.asarray(smooth.point(lambda v: 255 * (v > 127)))
    )


def test_masks_that_say_nothing_are_refused() -> None:
    assert refused(Image.new("L", SIZE, 0)).code == "mask-empty"
    assert refused(Image.new("L", SIZE, 255)).code == "mask-full"
    assert refused(Image.new("L", (1, 1), 255), size=(1, 1)).code == "mask-full"


def test_a_gateway_without_numpy_can_check_masks() -> None:
    """The gateway may not import numpy; domains, errors and this check need Pillow alone."""
    code = (
        "import sys; sys.modules['numpy'] = None; import engine_build.support.caller_mask, engine_build.support.domains"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
