"""Any decoded picture as a flat one: no transparency, 8 bits a channel, no larger than it will be used.

A large picture is flattened and made smaller band by band, so that beside the decoder's own pixels only a band of them
is ever in memory twice.
"""

from __future__ import annotations

from PIL import Image

# A picture this many times too large is first averaged down to nearly twice the size wanted, then resampled: far
# cheaper, and nobody sees the difference.
GAP = 1.75
BAND_ROWS = 256


def flat(image: Image.Image, long_side: int) -> Image.Image:
    """The picture in mode L, RGB or CMYK, over white, at most `long_side` pixels long."""
    scale = max(image.size) / long_side
    if scale <= 1:
        return _over_white(image)
    small = _averaged(image, max(1, int(scale / GAP)))
    if max(small.size) <= long_side:
        return small
    return small.resize(within(image.size, long_side), Image.Resampling.LANCZOS)


def within(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(width, height) of the same shape with the longer side at `long_side`."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _averaged(image: Image.Image, factor: int) -> Image.Image:
    """Flat, each pixel the mean of `factor` times `factor`."""
    width, height = image.size
    rows = BAND_ROWS * factor
    small: Image.Image | None = None
    for top in range(0, height, rows):
        band = _over_white(image.crop((0, top, width, min(height, top + rows))))
        band = band.reduce(factor) if factor > 1 else band
        if small is None:
            small = Image.new(band.mode, (band.width, -(-height // factor)))
        small.paste(band, (0, top // factor))
    return small if small is not None else _over_white(image)


def _over_white(image: Image.Image) -> Image.Image:
    """The picture without transparency and with 8 bits a channel: mode L, RGB or CMYK."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        deep = image.convert("I") if image.mode != "I" else image
        return deep.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "RGB", "CMYK") and "transparency" not in image.info:
        return image
    if image.mode == "LA":
        grey, alpha = image.split()
        return Image.composite(grey, Image.new("L", image.size, 255), alpha)
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), clear).convert("RGB")
    return image.convert("RGB")
