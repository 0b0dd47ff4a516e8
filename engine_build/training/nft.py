"""Stage D, DiffusionNFT: reinforcement on the forward process, without guidance (arXiv 2509.16117).

Groups of pictures are sampled from a slowly following old policy and scored. Flow matching on those pictures
then pulls an implicit positive policy `v+ = b v + (1 - b) v_old` towards the good ones and an implicit negative
policy `v- = (1 + b) v_old - b v` towards the bad ones. The reward is the geometric mean of four dimensions, so
that none can be bought with another; each is logged alone, and a purchase that happens all the same is warned of.

Letters: P prompts, G pictures of one prompt, M = P * G, T tokens of all targets, C channels, R dimensions.
"""

from __future__ import annotations

from torch import Tensor

from engine_build.training.tokens import sample_means
from kernels import Segments

LIMIT = 5.0
"""Advantages are clipped to plus and minus this many standard deviations."""


def geometric(scores: Tensor) -> Tensor:
    """(...) geometric means of (..., R) positive scores; a missing (NaN) dimension is left out."""
    return scores.clamp_min(1e-3).log().nanmean(-1).exp()


def advantages(rewards: Tensor) -> Tensor:
    """(P, G) rewards, centred within each prompt, over the deviation of all, clipped to +-5."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(correction=0) + 1e-4)).clamp(-LIMIT, LIMIT)


def optimality(advantage: Tensor) -> Tensor:
    """The probability r in [0, 1] that a picture is a good one: one half at advantage 0."""
    return (advantage / LIMIT / 2 + 0.5).clamp(0, 1)


def implicit_policies(velocity: Tensor, old: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(v+, v-), mirror images about the old policy's velocity."""
    return beta * velocity + (1 - beta) * old, (1 + beta) * old - beta * velocity


def policy_loss(
    velocity: Tensor,
    old: Tensor,
    x0: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    good: Tensor,
    segments: Segments,
    beta: float,
) -> Tensor:
    """`r |x+ - x0|^2 / w+ + (1 - r) |x- - x0|^2 / w-`, times 5 / b, averaged over M targets.

    velocity, old, x0 and noisy are (T, C); sigma (T, 1); `good` (M,) is r. `x+- = noisy - sigma v+-`, and w is
    the mean absolute error of a target, at least 1e-5, held constant.
    """
    losses = []
    for policy in implicit_policies(velocity, old.detach(), beta):
        error = noisy - sigma * policy - x0
        weight = sample_means(error.detach().abs(), segments).clamp_min(1e-5)
        losses.append(sample_means(error.square(), segments) / weight)
    positive, negative = losses
    return (good * positive + (1 - good) * negative).mean() * LIMIT / beta


def anchor_loss(velocity: Tensor, reference: Tensor) -> Tensor:
    """Mean squared distance of (T, C) velocities from the reference policy's, which stays where it is."""
    return (velocity - reference.detach()).square().mean()


def follow(step: int, slope: float, most: float) -> float:
    """Share of itself the old policy keeps after step `step`: from 0, rising by `slope` a step to `most`."""
    return min(most, slope * step)
