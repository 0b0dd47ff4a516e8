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


def denoise(
    config: ModelConfig,
    mode: ReferenceAttention,
    *,
    text: int,
    target: int,
    references: tuple[int, ...],
    steps: int,
    cached: bool = False,
) -> Work:
    """A picture's denoising with so many tokens of text, target and each reference, in `steps` steps.

    joint runs every token through every step; the others run references once, or never when they are cached. In
    the last layer only the target's tokens are computed, of all others just keys and values.
    """
    shown, own = sum(references), text + target
    if mode == "joint":
        return _layers(config, own + shown, own + shown, target).times(steps)
    step = _layers(config, own, own + shown, target)
    groups = (shown,) if mode == "shared" else references
    once = sum((_layers(config, n, n, 0) for n in groups), Work(0.0, 0.0))
    return step.times(steps) + (Work(0.0, 0.0) if cached else once)


def _layers(config: ModelConfig, tokens: int, keys: int, wanted: int) -> Work:
    """All layers for some tokens that attend `keys`, of which only `wanted` are asked for at the end."""
    d, m, before = config.width, config.mlp_width, config.layers - 1
    whole, key_and_value = 2.0 * (4 * d * d + 3 * d * m), 2.0 * (2 * d * d)
    linear = whole * (before * tokens + wanted) + key_and_value * (tokens - wanted)
    return Work(linear, 4.0 * d * keys * (before * tokens + wanted))


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
