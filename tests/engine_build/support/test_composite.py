"""Putting back: outside E the upload's own pixels, whatever picture it is; inside what was painted, without a seam."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter, ImageOps
from support_figures import standing

from engine_build.support.composite import blend, check_untouched, composite
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import edit_support
from engine_build.support.errors import SupportError
from engine_build.support.original import Original, encoded, read_original
from engine_build.support.png16 import written16
from engine_build.support.window import Window, crop, whole, window_around

AREA, MULTIPLE = 192 * 144, 16


def photo(width: int, height: int, seed: int = 0, smooth: float = 0.0) -> np.ndarray:
    """(height, width, 3) uint8: a picture with structure at every scale, or only at large ones."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 215, (8, 6, 3), dtype=np.uint8))
    image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    if not smooth:
        image = image + rng.integers(-20, 20, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def ellipse(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((x - width / 2) / (0.3 * width)) ** 2 + ((y - height / 2) / (0.35 * height)) ** 2) < 1


def png(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


def run(original: Original, support: np.ndarray, painted: Image.Image | None = None) -> np.ndarray:
    """What an expert's crop becomes: noise painted, unless given."""
    window = window_around(support, AREA, MULTIPLE)
    noise = np.random.default_rng(9).integers(0, 256, (window.size[1], window.size[0], 3), dtype=np.uint8)
    result = composite(original, painted or Image.fromarray(noise), window, support)
    check_untouched(original.pixels, result, support)
    return result


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_turned_by_its_exif_comes_back_upright_pixel_by_pixel(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(photo(101, 67)).save(out, "JPEG", quality=90, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))))
    original = read_original(out.getvalue())
    assert np.array_equal(original.pixels, upright)
    support = ellipse(*original.size)
    result = run(original, support)
    answer = np.asarray(Image.open(io.BytesIO(encoded(original, result, "png"))))
    assert np.array_equal(answer[~support], upright[~support]) and (answer[support] != upright[support]).any()


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_stays_outside_and_what_is_painted_can_be_seen(format: str) -> None:
    pixels = np.dstack([photo(64, 96), np.random.default_rng(1).integers(0, 256, (96, 64), dtype=np.uint8)])
    pixels[:, :40, 3] = 0
    original, support = read_original(png(pixels)), ellipse(64, 96)
    result = run(original, support)
    answer = np.asarray(Image.open(io.BytesIO(encoded(original, result, format))))
    assert answer.shape == pixels.shape and np.array_equal(answer[~support], pixels[~support])
    inside = blend(support, (0, 96, 0, 64), 1) == 1
    assert inside.any() and (answer[inside][:, 3] == 255).all()


@pytest.mark.parametrize("size", [(97, 131), (1, 1), (3, 500), (1001, 7)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    original = read_original(png(photo(*size)))
    support = np.ones((size[1], size[0]), bool)
    support[: size[1] // 2] = size == (1, 1)
    result = run(original, support)
    assert result.shape == original.pixels.shape


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_stay_sixteen(channels: int) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 65536, (61, 43, channels), dtype=np.uint16)
    if channels < 3:
        data = _grey16(pixels)
        expected = np.concatenate([np.repeat(pixels[..., :1], 3, 2), pixels[..., 1:]], axis=2)
    else:
        data, expected = b"".join(written16(pixels, None, None, 1)), pixels
    original = read_original(data)
    assert original.pixels.dtype == np.uint16 and np.array_equal(original.pixels, expected)
    support = ellipse(43, 61)
    result = run(original, support)
    again = read_original(encoded(original, result, "png", xmp=b"<x/>"))
    assert np.array_equal(again.pixels[~support], expected[~support])
    assert (again.pixels[support][:, :3] != expected[support][:, :3]).any()
    assert Image.open(io.BytesIO(encoded(original, result, "png", xmp=b"<x/>"))).info["XML:com.adobe.xmp"] == "<x/>"
    with pytest.raises(SupportError, match="16 bits"):
        encoded(original, result, "webp")


def _grey16(pixels: np.ndarray) -> bytes:
    """A grey PNG of 16 bits, with alpha if there are two channels, made of a coloured one's parts."""
    import struct
    import zlib

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.reshape(height, -1))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 4, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def wide_gamut() -> bytes:
    """A profile as far from sRGB as Display-P3 and further, which every build of Pillow can make: XYZ is none of RGB's,
    so sRGB's own profile with red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(profile[131])}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_a_photo_of_another_colour_space_keeps_its_pixels_and_its_profile_and_is_painted_in_it() -> None:
    profile = wide_gamut()
    pixels = np.full((96, 72, 3), (200, 40, 60), np.uint8)
    original, support = read_original(png(pixels, icc_profile=profile)), ellipse(72, 96)
    assert original.profile == profile and np.array_equal(original.pixels, pixels)
    window = window_around(support, AREA, MULTIPLE)
    shown = crop(original, window)
    red, green, _ = np.asarray(shown)[5, 5].tolist()
    assert green > 150 > red, "the model sees the colours that the profile means"
    back = composite(original, shown, window, support)
    assert np.abs(back.astype(int) - pixels).max() <= 4, "and what it paints is brought back into the photo's space"
    assert Image.open(io.BytesIO(encoded(original, back, "png"))).info["icc_profile"] == profile
    assert Image.open(io.BytesIO(encoded(original, back, "webp"))).info["icc_profile"] == profile


def test_a_profile_that_cannot_be_used_is_kept_and_nothing_is_converted() -> None:
    original = Original(photo(60, 80), b"not a profile")
    plain = Original(original.pixels)
    window = whole((60, 80), AREA, MULTIPLE)
    assert np.array_equal(np.asarray(crop(original, window)), np.asarray(crop(plain, window)))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_pictures_become_the_same_colours(mode: str) -> None:
    image = Image.fromarray(photo(50, 70)).convert(mode)
    out = io.BytesIO()
    image.save(out, "PNG")
    expected = np.asarray(image.convert("RGBA" if mode == "LA" else "RGB"))
    original = read_original(out.getvalue())
    assert np.array_equal(original.pixels, expected)
    run(original, ellipse(50, 70))


def test_pictures_whose_pixels_no_answer_can_hold_and_broken_ones_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(photo(40, 40)).convert("CMYK").save(out, "JPEG")
    whole_png = png(photo(40, 40))
    for data, code in ((out.getvalue(), "picture-mode"), (whole_png[:600], "picture-broken"), (b"", "picture-broken")):
        with pytest.raises(SupportError) as caught:
            read_original(data)
        assert caught.value.code == code


def test_a_lossy_answer_is_refused() -> None:
    original = Original(photo(16, 16))
    with pytest.raises(SupportError, match="png or webp") as caught:
        encoded(original, original.pixels, "jpeg")
    assert caught.value.code == "lossy-answer"


@pytest.mark.parametrize("domain", ["dress", "bg"])
def test_24_megapixels_keep_every_pixel_outside_within_bounded_memory(domain: str) -> None:
    """Beside the answer itself, 24 megapixels need strips and the crop at the model's size: less than 64 MiB."""
    width, height = 4244, 5656
    rng = np.random.default_rng(3)
    pixels = np.tile(rng.integers(0, 256, (283, 1061, 3), dtype=np.uint8), (20, 4, 1))[:height, :width].copy()
    original = Original(pixels)
    support = edit_support(standing(), DOMAINS[domain], size=(width, height))
    window = window_around(support, 384 * 512, MULTIPLE)
    painted = Image.fromarray(photo(*window.size, seed=5))
    before = pixels.copy()
    tracemalloc.start()
    try:
        result = composite(original, painted, window, support)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - result.nbytes < 64 << 20
    assert np.array_equal(before, pixels), "the original itself is never written to"
    check_untouched(pixels, result, support)
    assert (result[support] != pixels[support]).any(1).mean() > 0.8


def test_one_changed_pixel_outside_is_found() -> None:
    before, support = photo(33, 44), ellipse(33, 44)
    after = before.copy()
    after[0, 32, 1] ^= 1
    with pytest.raises(SupportError, match=r"\(32, 0\)") as caught:
        check_untouched(before, after, support)
    assert caught.value.code == "pixels-outside-changed"
    with pytest.raises(SupportError):
        check_untouched(before, before[:-1], support)


@pytest.mark.parametrize("shift", [30, -30])
def test_the_seam_is_no_steeper_than_its_surroundings(shift: int) -> None:
    """A crop painted in another light: nothing of it is seen along E's border."""
    width, height = 600, 800
    pixels = photo(width, height, smooth=1)
    support = ellipse(width, height)
    window = window_around(support, AREA, MULTIPLE)
    truth = np.asarray(crop(Original(pixels), window)).astype(int)
    painted = Image.fromarray((truth + np.array([shift, -shift // 2, shift // 3])).clip(0, 255).astype(np.uint8))
    result = composite(Original(pixels), painted, window, support).astype(int)
    seam = _crossing(support)
    steps = {name: np.abs(np.diff(a, axis=1)).max(2) for name, a in (("before", pixels.astype(int)), ("after", result))}
    assert steps["after"][seam].max() <= steps["before"][seam].max() + 2
    assert np.abs(result - pixels).max() <= 8, "the other light is gone everywhere"


def test_even_another_picture_meets_the_photo_in_a_ramp() -> None:
    """What no colour can match is blended: from one pixel to the next by no more than its share."""
    pixels = np.full((800, 600, 3), 20, np.uint8)
    support = ellipse(600, 800)
    window = whole((600, 800), AREA, MULTIPLE)
    result = composite(Original(pixels), Image.new("RGB", window.size, (220, 220, 220)), window, support).astype(int)
    side = 2 * max(1, round(0.005 * 800)) + 1
    for axis in (0, 1):
        assert np.abs(np.diff(result, axis=axis)).max() <= 200 / side + 1
    assert result.max() == 220


def _crossing(support: np.ndarray) -> np.ndarray:
    """Where a step to the right lies within 12 pixels of E's border."""
    edge = Image.fromarray((support[:, 1:] ^ support[:, :-1]).astype(np.uint8) * 255)
    return np.asarray(edge.filter(ImageFilter.MaxFilter(25))) > 0


def test_nothing_of_the_old_garment_shines_through() -> None:
    """Ghosting inside: beyond the blend the result knows nothing of what E held, neither its shapes nor its colours."""
    width, height = 300, 400
    support = ellipse(width, height)
    one = photo(width, height)
    other = one.copy()
    other[support] = photo(width, height, seed=7)[support]
    window = window_around(support, AREA, MULTIPLE)
    painted = Image.fromarray(photo(*window.size, seed=11))
    a, b = (composite(Original(p), painted, window, support).astype(int) for p in (one, other))
    deep = blend(support, (0, height, 0, width), max(1, round(0.005 * window.height))) == 1
    assert deep.sum() > 0.8 * support.sum()
    assert np.abs(a[deep] - b[deep]).max() <= 1


def test_a_crop_painted_as_it_was_shown_comes_back_in_place() -> None:
    """No misaligned crop: not by a pixel, at any size and place."""
    for (left, top, right, bottom), size in (((37, 53, 219, 301), (256, 341)), ((0, 0, 90, 110), (301, 223))):
        pixels = photo(*size, smooth=1)
        pixels[::16] = 0
        pixels[:, ::16] = 255
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))
        support = np.zeros((size[1], size[0]), bool)
        support[top:bottom, left:right] = True
        window = window_around(support, 512 * 512, MULTIPLE)
        result = composite(Original(pixels), crop(Original(pixels), window), window, support).astype(int)
        assert np.abs(result - pixels).mean() < 1.0
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            assert np.abs(result - np.roll(pixels, (dy, dx), (0, 1))).mean() > 3 * np.abs(result - pixels).mean()


@pytest.mark.parametrize("domain", list(DOMAINS))
@pytest.mark.parametrize("size", [(288, 384), (3000, 4000), (640, 480), (131, 197)])
def test_windows_hold_e_and_context_within_the_photo_at_the_models_size(domain: str, size: tuple[int, int]) -> None:
    support = edit_support(standing(), DOMAINS[domain], size=size)
    window = window_around(support, AREA, MULTIPLE)
    left, top, right, bottom = window.box
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    rows, columns = np.nonzero(support.any(1))[0], np.nonzero(support.any(0))[0]
    assert left <= columns[0] and columns[-1] < right and top <= rows[0] and rows[-1] < bottom
    assert left < columns[0] or left == 0
    assert window.size[0] % MULTIPLE == window.size[1] % MULTIPLE == 0
    assert 0.6 * AREA < window.size[0] * window.size[1] < 1.5 * AREA
    assert abs(np.log(window.width / window.height / (window.size[0] / window.size[1]))) < 0.13
    assert window.inside(support).shape == window.size[::-1] and window.inside(support).any()


def test_crops_and_supports_of_another_size_are_refused() -> None:
    original, support = Original(photo(60, 80)), ellipse(60, 80)
    window = window_around(support, AREA, MULTIPLE)
    wrong = Image.new("RGB", (window.size[0] + 1, window.size[1]))
    for painted, mask in ((wrong, support), (Image.new("RGB", window.size), support.T)):
        with pytest.raises(SupportError) as caught:
            composite(original, painted, window, mask)
        assert caught.value.code == "crop-mismatch"
    with pytest.raises(SupportError) as caught:
        window_around(np.zeros((8, 8), bool), AREA, MULTIPLE)
    assert caught.value.code == "nothing-to-edit"
    assert isinstance(replace(window, size=(16, 16)), Window)
