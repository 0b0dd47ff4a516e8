"""The least time a try-on can take, by counting: floating-point operations over what the hardware reaches.

A multiply-add is two operations. Both kinds of blocks cost a token `4 D^2 + 3 D M` multiply-adds in linears (q, k,
v, out; gate, value, down; M the MLP's width) and attention `2 q k D` multiply-adds for q queries on k keys, a layer.
The rates are large matrix products and FlashAttention as an H200 runs them; nothing here is measured.

Letters: D width, S tokens of text and target, P reference tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLFlux2
from torch.utils.flop_counter import FlopCounterMode

from engine_build.config import ModelConfig, ReferenceAttention


@dataclass(frozen=True)
class Rates:
    """Operations a second that a device reaches: bf16 and FP8 matrix products, bf16 attention."""

    bf16: float
    fp8: float
    attention: float


H200 = Rates(bf16=790e12, fp8=1400e12, attention=620e12)


@dataclass(frozen=True)
class Work:
    """Operations in linears and in attention."""

    linear: float
    attention: float

    def __add__(self, other: Work) -> Work:
        return Work(self.linear + other.linear, self.attention + other.attention)

    def times(self, n: int) -> Work:
        return Work(self.linear * n, self.attention * n)

    def seconds(self, rates: Rates, fp8: bool = False) -> float:
        """Linears at the FP8 rate if fp8, attention always in bf16."""
        return self.linear / (rates.fp8 if fp8 else rates.bf16) + self.attention / rates.attention


def linears(config: ModelConfig, tokens: int) -> float:
    """Operations of all blocks' linears for so many tokens."""
    d, m = config.width, config.mlp_width
    return 2.0 * (4 * d * d + 3 * d * m) * config.layers * tokens


def attention(config: ModelConfig, queries: int, keys: int) -> float:
    """Operations of all layers' attention."""
    return 4.0 * queries * keys * config.width * config.layers


def denoise(
    config: ModelConfig,
    mode: ReferenceAttention,
    *,
    own: int,
    references: tuple[int, ...],
    steps: int,
    cached: bool = False,
) -> Work:
    """A picture's denoising: `own` tokens of text and target, `references` tokens each, `steps` steps.

    joint runs every token through every step; the others run references once, or never when they are cached.
    """
    shown = sum(references)
    if mode == "joint":
        everything = own + shown
        return Work(linears(config, everything), attention(config, everything, everything)).times(steps)
    step = Work(linears(config, own), attention(config, own, own + shown))
    groups = (shown,) if mode == "shared" else references
    once = Work(linears(config, shown), sum(attention(config, n, n) for n in groups))
    return step.times(steps) + (Work(0.0, 0.0) if cached else once)


def autoencoder(vae: AutoencoderKLFlux2, size: tuple[int, int], encode: bool) -> float:
    """Operations of encoding or decoding one picture of (width, height), counted by torch on no device at all."""
    with torch.device("meta"):
        shape = AutoencoderKLFlux2.from_config(vae.config)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    width, height = size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if encode:
            shape.encode(torch.empty(1, 3, height, width, device="meta"))
        else:
            shape.decode(torch.empty(1, vae.config.latent_channels, height // scale, width // scale, device="meta"))
    return float(counter.get_total_flops())
