"""Stage E, second half: distribution matching distillation of a flow to a few steps.

After Yin et al., arXiv 2311.18828 (DMD) and 2405.14867 (DMD2: two time scales, backward simulation), written
from the papers. The student's picture x is noised to tau; where the frozen teacher and a fake network, trained
along on the student's own pictures, disagree about what x was, the student moves from the fake's mind to the
teacher's. During training the student starts from states it reaches itself, as in inference.

Letters: M targets, T all their tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine_build.training.tokens import sample_means
from kernels import Segments


def matching_direction(x: Tensor, real: Tensor, fake: Tensor, segments: Segments) -> Tensor:
    """`g = (p_real - p_fake) / mean|p_real|` of each target, with `p = x - x0-prediction`; all (T, C)."""
    p_real, p_fake = x - real, x - fake
    scale = sample_means(p_real.abs(), segments).clamp_min(1e-5)
    return ((p_real - p_fake) / segments.per_token(scale[:, None])).detach()


def matching_loss(x: Tensor, direction: Tensor) -> Tensor:
    """`|x - sg(x - g)|^2 / 2`, averaged over tokens and channels: its gradient with respect to x is g."""
    return 0.5 * (x - (x - direction).detach()).square().mean()


def matching_levels(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(M,) noise levels tau, uniform in [low, high]."""
    return low + (high - low) * torch.rand(count, generator=generator)


def renoised(x0: Tensor, velocity: Tensor, sigma: float, eps: Tensor | None) -> Tensor:
    """The next state at `sigma` of a student that predicted x0 (T, C): its own noise kept, or `eps` instead.

    With its own noise, `x0 + s (x0 + v) `, this is the Euler step that inference takes.
    """
    return (1 - sigma) * x0 + sigma * (x0 + velocity if eps is None else eps)
