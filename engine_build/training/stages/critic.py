"""DMD2's adversary: a head on the fake network's features that tells the student's pictures from real ones.

After Yin et al., arXiv 2405.14867, section 4.3, written from the paper: both are noised to the same level, the fake
network looks, the head decides. Unlike distribution matching it has seen real pictures, so the student can come out
better than its teacher. The head learns together with the fake network, by the non-saturating loss.

Letters: M targets, T all their tokens, D width of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.training.data.packed_batch import sample_means
from kernels import Segments


def critic_loss(fake: Tensor, real: Tensor) -> Tensor:
    """`softplus(fake) + softplus(-real)`, means of (M,) logits: low where real pictures score above the student's."""
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def student_loss(fake: Tensor) -> Tensor:
    """`softplus(-fake)`, the mean of (M,) logits: low where the student's pictures pass for real."""
    return F.softplus(-fake).mean()


class Head(nn.Module):
    """Features (T, D) of targets to one logit each (M,): two layers on every token, then the mean over the target."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        for linear in (self.inner, self.out):
            nn.init.normal_(linear.weight, 0, width**-0.5, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Tensor, segments: Segments) -> Tensor:
        return sample_means(self.out(F.silu(self.inner(features.float())))[:, 0].float(), segments)


class Critic(nn.Module):
    """The fake network's trained weights, `score`, and the head beside them: what one optimizer moves together."""

    def __init__(self, score: nn.Module, head: Head) -> None:
        super().__init__()
        self.score, self.head = score, head


def look(dit: MMDiT, head: Head, noisy: PackedBatch) -> tuple[Tensor, Tensor]:
    """The network's velocity (T, C) of a noised batch, and the head's logits (M,) on what it saw last."""
    with _last_features(dit) as seen:
        velocity = dit(noisy).float()
    return velocity, head(seen[0], noisy.target_segments)


def push(dit: MMDiT, head: Head, noisy: PackedBatch) -> tuple[Tensor, Tensor]:
    """The student's loss on a noised batch, and its gradient (T, C) with respect to `noisy.target`.

    Nothing else gets a gradient: neither the network nor the head.
    """
    target = noisy.target.detach().requires_grad_()
    _, logits = look(dit, head, noisy.at(target, noisy.sigma))
    loss = student_loss(logits)
    (gradient,) = torch.autograd.grad(loss, target)
    return loss.detach(), gradient


@contextmanager
def _last_features(dit: MMDiT) -> Iterator[list[Tensor]]:
    """What enters the last projection, (T, D), of every pass inside."""
    seen: list[Tensor] = []
    handle = dit.proj_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
