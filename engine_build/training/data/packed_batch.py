"""Training samples of different sizes and numbers of references as one packed batch: no padding, no buckets.

NaViT-style packing (Dehghani et al., arXiv 2307.06304) for training: targets, references and words of every
sample keep their own lengths. References of checkpoints that encode them apart are encoded once a sample and
shared by its `draws` noise levels; a joint checkpoint gets them once a draw.

Letters: N samples, M = N * draws targets, T all their tokens, C channels, Lt and Dt length and width of text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine_build.model.packing import PackedBatch, Reference, grid_ids, pack
from engine_build.model.packing import Sequence as Request
from engine_build.training.data.sample import Tokens
from kernels import Segments


def pack_samples(samples: Sequence[Tokens], text: Sequence[Tensor], draws: int = 1, joint: bool = False) -> PackedBatch:
    """M clean targets in a row, conditioned on text (Lt, Dt) and references: `batch.at(noisy, sigma)` is next."""
    requests = []
    for sample, text_tokens in zip(samples, text, strict=True):
        device = sample.target.device
        slots = zip(sample.references, sample.grids, strict=True)
        references = tuple(
            Reference(tokens, grid_ids(*grid, 10 + 10 * i).to(device)) for i, (tokens, grid) in enumerate(slots)
        )
        one = Request(text_tokens, sample.target, grid_ids(*sample.grid).to(device), 0.0, references)
        requests += [one] * draws
    return pack(requests, 1 if joint else draws)


def noise_like(batch: PackedBatch, generator: torch.Generator) -> Tensor:
    """(T, C) Gaussian noise, drawn on the CPU so that a seed is the same everywhere."""
    return torch.randn(batch.target.shape, generator=generator).to(batch.target.device)


def noised(batch: PackedBatch, x0: Tensor, eps: Tensor, sigma: Tensor) -> PackedBatch:
    """The batch at `(1 - s) x0 + s eps`, sigma (M,); x0 and eps (T, C)."""
    s = per_token(batch, sigma)
    return batch.at((1 - s) * x0 + s * eps, sigma)


def per_token(batch: PackedBatch, values: Tensor) -> Tensor:
    """(M,) values as a column (T, 1)."""
    return batch.target_segments.per_token(values[:, None])


def sample_means(errors: Tensor, segments: Segments) -> Tensor:
    """(M,) means over each target's tokens and channels of (T, C), or over tokens of (T,)."""
    flat = errors if errors.ndim == 1 else errors.mean(1)
    if segments.uniform is not None:
        return flat.view(len(segments), segments.uniform).mean(1)
    return torch.stack([part.mean() for part in flat.split(segments.lengths)])


def token_weights(samples: Sequence[Tokens], edit_weight: float, draws: int = 1, region_only: bool = False) -> Tensor:
    """(T,) loss weights, averaging to 1 over each target: `1 + edit_weight * share`, or the share alone.

    With `region_only` a sample whose region is empty weighs nothing.
    """
    rows = []
    for sample in samples:
        weight = sample.share if region_only else 1 + edit_weight * sample.share
        rows += [weight / weight.mean().clamp_min(1e-6)] * draws
    return torch.cat(rows)


def padded(samples: Sequence[Tokens], references: int | None = None) -> list[Tokens]:
    """The same samples padded with blank tokens to the largest target, reference and number of references.

    Only a yardstick for what packing saves: blank tokens are attended, as in padded training without masks.
    """
    grids = [grid for sample in samples for grid in sample.grids]
    target = max((sample.grid for sample in samples), key=math.prod)
    largest = max(grids, key=math.prod)
    most = references or max(len(sample.references) for sample in samples)
    result = []
    for sample in samples:
        given = [_stretched(tokens, largest) for tokens in sample.references]
        blank = sample.target.new_zeros(math.prod(largest), sample.target.shape[1])
        given += [blank] * (most - len(given))
        result.append(
            replace(
                sample,
                target=_stretched(sample.target, target),
                grid=target,
                share=_stretched(sample.share[:, None], target)[:, 0],
                references=tuple(given),
                grids=(largest,) * most,
                categories=sample.categories + ("",) * (most - len(sample.categories)),
            )
        )
    return result


def _stretched(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    missing = math.prod(grid) - len(tokens)
    return torch.cat([tokens, tokens.new_zeros(max(0, missing), tokens.shape[1])])[: math.prod(grid)]
