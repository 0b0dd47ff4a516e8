"""Time and place as numbers that an MMDiT can use: embedded sigmas, their modulations, rotary angles.

Letters as in `engine_build.model`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.stage import Rope


class Modulation(nn.Module):
    """`parts` rows `(N, D)` from the time embedding `(N, D)`."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width, bias=False)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time)).chunk(self.parts, dim=-1)


class TimeEmbedding(nn.Module):
    """Time embedding `(N, D)` of sigma `(N,)`, plus the guidance scale's where the model has one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = config.timestep_guidance_channels
        self.timestep_embedder = TimestepMLP(self.channels, config.width)
        self.guidance_embedder = TimestepMLP(self.channels, config.width) if config.guidance_embeds else None

    def forward(self, sigma: Tensor, guidance: Tensor | None) -> Tensor:
        time = self._embed(self.timestep_embedder, sigma)
        if self.guidance_embedder is None or guidance is None:
            return time
        return time + self._embed(self.guidance_embedder, guidance)

    def _embed(self, mlp: TimestepMLP, value: Tensor) -> Tensor:
        dtype = mlp.linear_1.weight.dtype
        return mlp(sinusoid(value.to(dtype) * 1000, self.channels).to(dtype))


class TimestepMLP(nn.Module):
    """Two linear layers around a SiLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width, bias=False)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def sinusoid(timestep: Tensor, channels: int) -> Tensor:
    """Cosines then sines `(N, channels)` float32 of a timestep `(N,)`, periods up to 10,000."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) * (-math.log(10_000) / half)
    angle = timestep.float()[:, None] * exponent.exp()
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rope_table(ids: Tensor, config: ModelConfig) -> Rope:
    """cos and sin `(T, E/2)` float32 of RoPE ids `(T, 4)`; angles in float64."""
    tables = [
        axis_table(ids[:, axis].double(), size, config.rope_theta)
        for axis, size in enumerate(config.axes_dims_rope)
    ]
    return torch.cat([cos for cos, _ in tables], dim=-1), torch.cat([sin for _, sin in tables], dim=-1)


def axis_table(position: Tensor, size: int, theta: int) -> Rope:
    frequency = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float64, device=position.device) / size)
    angle = position[:, None] * frequency
    return angle.cos().float(), angle.sin().float()
