"""A picture of unfinished tokens without a decoder: each token's colours by one linear map of its numbers.

A full decode costs more than a denoising step of a small model, and three previews a picture cost three of them. The
map is fitted to the autoencoder itself, by least squares over drawn pictures that it encodes and decodes once, so
every checkpoint has its own and none has to be shipped. The idea is ComfyUI's and diffusers' "latent RGB factors",
fitted instead of listed, and with a block of colours a token instead of one.

Letters: N pictures, C channels of a token, h, w token rows and columns, B colours a token's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

BLOCK = 4
TOKENS = 1_024
RIDGE = 1e-3
Encode = Callable[[Sequence[Image.Image]], Tensor]  # pictures -> (N, C, h, w)
Decode = Callable[[Tensor], Tensor]  # (C, h, w) -> (H, W, 3) uint8


class LinearPreview:
    """Tokens `(C, h, w)` to small pictures; fitted when first asked, to pictures of the size it is first asked for."""

    def __init__(self, encode: Encode, decode: Decode, token_pixels: int) -> None:
        self._encode, self._decode, self._side = encode, decode, token_pixels
        self._map: Tensor | None = None  # (C + 1, 3 B B)

    @torch.inference_mode()
    def pixels(self, tokens: Tensor, longest: int) -> Tensor:
        """(H, W, 3) uint8 on the tokens' device, the picture's own size unless that is more than `longest` a side."""
        channels, rows, columns = tokens.shape
        if self._map is None:
            self._map = self._fitted(rows, columns).to(tokens.device)
        flat = tokens.float().flatten(1).T  # (h w, C)
        colours = flat @ self._map[:channels] + self._map[channels]  # (h w, 3 B B)
        blocks = colours.view(rows, columns, 3, BLOCK, BLOCK).permute(2, 0, 3, 1, 4)
        small = blocks.reshape(1, 3, rows * BLOCK, columns * BLOCK)
        height, width = rows * self._side, columns * self._side
        factor = min(1.0, longest / max(height, width))
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        shown = F.interpolate(small, size=size, mode="bilinear", align_corners=False)[0]
        return (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()

    def _fitted(self, rows: int, columns: int) -> Tensor:
        count = math.ceil(TOKENS / (rows * columns))
        pictures = [probe(seed, columns * self._side, rows * self._side) for seed in range(count)]
        encoded = self._encode(pictures)
        tokens = encoded.double().cpu()  # (N, C, h, w)
        colours = torch.stack([self._decode(one).cpu() for one in encoded]).permute(0, 3, 1, 2).double() / 255
        small = F.interpolate(colours, size=(rows * BLOCK, columns * BLOCK), mode="area")
        blocks = small.unflatten(2, (rows, BLOCK)).unflatten(4, (columns, BLOCK))  # (N, 3, h, B, w, B)
        y = blocks.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * BLOCK * BLOCK)
        x = tokens.permute(0, 2, 3, 1).flatten(0, 2)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        normal = x.T @ x
        normal += RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        fitted: Tensor = torch.linalg.solve(normal, x.T @ y)
        return fitted.float()


def probe(seed: int, width: int, height: int) -> Image.Image:
    """A drawn RGB picture with what photos have: soft ground, edges, stripes and fine grain; the same for a seed."""
    rng = np.random.default_rng(seed)
    coarse = (rng.random((3, 4, 3)) * 255).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)

    def colour() -> tuple[int, int, int]:
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        return red, green, blue

    for i in range(14):
        x, y = int(rng.integers(-width // 4, width)), int(rng.integers(-height // 4, height))
        w, h = int(rng.integers(4, max(5, width // 2))), int(rng.integers(4, max(5, height // 2)))
        shape = draw.ellipse if i % 3 == 0 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour())
        if i % 4 == 1:
            period, ink = int(rng.integers(3, 12)), colour()
            for line in range(y, y + h, period):
                draw.line((x, line, x + w, line), fill=ink, width=max(1, period // 2))
    return picture.filter(ImageFilter.GaussianBlur(float(rng.random() * 0.8)))
