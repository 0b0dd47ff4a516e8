"""The parser that ships: people of the procedural world, 128 rows at a time, in milliseconds on a CPU.

Trained by `engine_build.training.measure.parser` (1,100 steps, then 700 from there), so that an expert's default path
needs no truth. It has never seen a photograph, and takes a coat for a top now and then.

Letters: N pictures, H rows, W columns, both multiples of 8; R regions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from engine_build.support.regions import NAMES, RegionMap

WEIGHTS = Path(__file__).parent / "world_parser.safetensors"
HEIGHT = 128
MULTIPLE = 8


class _Stage(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inside, outside, 3, stride, dilation, dilation)
        self.norm = nn.GroupNorm(4, outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.convolution(x)))


class WorldParser(nn.Module):
    """(N, 3, H, W) pictures in [0, 1] to logits (N, R, H, W) of NAMES."""

    def __init__(self) -> None:
        super().__init__()
        self.down_1 = _Stage(5, 16)
        self.down_2 = _Stage(16, 32, 2)
        self.down_4 = _Stage(32, 48, 2)
        self.down_8 = _Stage(48, 56, 2)
        self.wide = _Stage(56, 56, dilation=2)
        self.up_4 = _Stage(56 + 48, 40)
        self.up_2 = _Stage(40 + 32, 28)
        self.up_1 = _Stage(28 + 16, 20)
        self.out = nn.Conv2d(20, len(NAMES), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        n, _, height, width = pictures.shape
        y = torch.linspace(-1, 1, height, device=pictures.device).view(1, 1, height, 1).expand(n, 1, height, width)
        x = torch.linspace(-1, 1, width, device=pictures.device).view(1, 1, 1, width).expand(n, 1, height, width)
        full = self.down_1(torch.cat([pictures * 2 - 1, x, y], 1))  # (N, 16, H, W)
        half = self.down_2(full)  # (N, 32, H/2, W/2)
        quarter = self.down_4(half)  # (N, 48, H/4, W/4)
        deep = self.wide(self.down_8(quarter))  # (N, 56, H/8, W/8)
        up = self.up_4(torch.cat([F.interpolate(deep, scale_factor=2.0), quarter], 1))  # (N, 40, H/4, W/4)
        up = self.up_2(torch.cat([F.interpolate(up, scale_factor=2.0), half], 1))  # (N, 28, H/2, W/2)
        up = self.up_1(torch.cat([F.interpolate(up, scale_factor=2.0), full], 1))  # (N, 20, H, W)
        logits: Tensor = self.out(up)
        return logits


class WorldRegions:
    """The bundled parser as a provider of regions."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._model = WorldParser()
        self._model.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=True)
        self._model.eval().requires_grad_(False)

    def __call__(self, photo: Image.Image) -> RegionMap:
        """Regions at HEIGHT rows of an upright photo of any size."""
        width = max(1, round(photo.width * HEIGHT / photo.height / MULTIPLE)) * MULTIPLE
        small = photo.convert("RGB").resize((width, HEIGHT), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            labels = self._model(pixels)[0].argmax(0).to(torch.uint8)
        return RegionMap(labels.numpy())
