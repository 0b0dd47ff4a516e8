"""How much each channel of a token counts in the loss: as much as it shows in the picture.

Normalising latents, as FLUX.2's autoencoder does, gives every channel the variance 1, also those that the decoder
hardly reads: of the 128 numbers of nano-192's token 8 make seven tenths of what a unit of noise does to the picture,
and 56 make nothing. A plain squared error spends itself on all of them alike. Here a channel weighs a power of the
squared change of the picture by a unit of it, `E |d picture / d channel|^2`, by Hutchinson's probes (1990): `J^T v` for
a random `v` gives all channels in one backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine_build.training.data.encoder import Encoder
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene

SCENES = range(4)
TOKENS_HIGH = 8
"""Rows of tokens of the pictures that are probed."""
PROBES = 16


def channel_weights(encoder: Encoder, power: float) -> Tensor | None:
    """(C,) weights that average to 1, the same in every process and after every interruption; None at `power` 0."""
    if not power:
        return None
    height = TOKENS_HIGH * encoder.token_pixels
    scenes = [sample_scene(seed, 3) for seed in SCENES]
    weights = importance(encoder, render(scenes, height).target) ** power
    return weights / weights.mean()


def importance(encoder: Encoder, pictures: Tensor, probes: int = PROBES) -> Tensor:
    """(C,) mean squared change of pictures (N, 3, H, W) in [0, 1] by a unit of each channel of one token."""
    generator = torch.Generator().manual_seed(0)
    tokens = encoder.encode(pictures).requires_grad_()
    height, width = pictures.shape[2:]
    total = torch.zeros(tokens.shape[2], device=tokens.device)
    for _ in range(probes):
        with torch.enable_grad():
            painted = encoder.unclamped(tokens, height, width)
            probe = torch.randn(painted.shape, generator=generator).to(painted.device)
            (slope,) = torch.autograd.grad((painted * probe).sum(), tokens)
        total += slope.square().mean((0, 1))
    return total / probes
