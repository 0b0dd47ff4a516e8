"""Flow matching on packed samples: the loss of stages A to C, and of everything that fine-tunes by it.

Noise and noise levels belong to a sample and a step, not to a process, so that one process and many see the
same. A tenth of the samples lose their words and garments, which is what guidance later compares with.

Letters: N samples of this process, M = N * draws targets, T their tokens, C channels.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_build.training.data.packed_batch import noised, sample_means, token_weights
from engine_build.training.data.sample import PERSON, Stream, Tokens, encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.learner import Learner, StageConfig, autocast
from engine_build.training.loop.sharding import Place
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.stages.attention import (
    Watched,
    attention_weight,
    correspondence_loss,
    velocity_and_attention,
)
from engine_build.training.stages.channel_weights import channel_weights
from engine_build.world.scenes import HELD_OUT_SEED
from engine_build.world.specs import CATEGORIES

_VALIDATION_LEVELS = (0.4, 0.7, 0.9)


@dataclass(frozen=True)
class Draw:
    """The chance of one step: noise (T, C), noise levels (M,), and which of the N samples lose their condition."""

    eps: Tensor
    sigma: Tensor
    dropped: list[bool]


def noise_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """(count,) stratified logit-normal noise levels, shifted towards noise by `shift`."""
    quantile = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    odds = torch.exp(torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)))
    return (shift * odds / (1 + shift * odds)).clamp(1e-3, 1.0)


def chance(samples: Sequence[Tokens], step: int, config: StageConfig, place: Place) -> Draw:
    """What the step draws for this process's samples, the same whatever the number of processes."""
    total = len(samples) * place.world
    generator = torch.Generator().manual_seed((config.seed << 40) + step)
    sigma = noise_levels(total * config.draws, config.shift, generator).view(total, config.draws)
    mine = range(place.rank, total, place.world)
    eps = []
    for i, sample in zip(mine, samples, strict=True):
        own = torch.Generator().manual_seed((config.seed << 40) + (step << 12) + i + 1)
        eps.append(torch.randn(config.draws * len(sample.target), sample.target.shape[1], generator=own))
    dropped = [random.Random(f"{config.seed}/{step}/{i}").random() < config.drop for i in mine]
    device = samples[0].target.device
    return Draw(torch.cat(eps).to(device), sigma[list(mine)].flatten().to(device), dropped)


def velocity_loss(
    parts: NetworkParts,
    samples: Sequence[Tokens],
    drawn: Draw,
    draws: int,
    edit_weight: float,
    region_only: bool = False,
    watched: Watched | None = None,
    channels: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Weighted `|v - (eps - x0)|^2`, every sample counting alike whatever its size (Liu et al., 2022).

    `channels` (C,) weighs a token's numbers, None alike. With `watched` also how far the attention of what it watches
    is from the samples' correspondences, in nats.
    """
    shown = [s.unconditioned() if drop else s for s, drop in zip(samples, drawn.dropped, strict=True)]
    batch = conditioned(parts, shown, draws)
    x0 = batch.target
    asked = noised(batch, x0, drawn.eps, drawn.sigma)
    velocity = (parts.dit(asked) if watched is None else velocity_and_attention(parts.dit, asked, watched)).float()
    weight = token_weights(samples, edit_weight, draws, region_only)
    errors = weight * _squares(velocity - (drawn.eps - x0), channels)
    loss = sample_means(errors, batch.target_segments).mean()
    return loss, None if watched is None else correspondence_loss(watched, shown, draws)


def _squares(error: Tensor, channels: Tensor | None) -> Tensor:
    """(T,) mean squares of (T, C), channels weighed."""
    return (error.square() if channels is None else error.square() * channels).mean(1)


class Matching:
    """One step of flow matching on a stream; with `validate_every`, what each category's loss is on held-out scenes."""

    def __init__(
        self,
        parts: NetworkParts,
        learner: Learner,
        stream: Stream,
        region_only: bool = False,
        validate_every: int = 0,
    ) -> None:
        self.parts, self.learner, self.stream, self.region_only = parts, learner, stream, region_only
        self.validate_every = validate_every
        self.channels = channel_weights(parts.encoder, learner.config.channel_power)
        self._held_out: dict[str, list[Tokens]] = {}

    def __call__(self, step: int) -> dict[str, Tensor | float]:
        c = self.learner.config
        samples = self.stream.batch(step)
        drawn = chance(samples, step, c, self.learner.place)
        with autocast(self.parts.device, c.bf16):
            weight = attention_weight(c, step)
            watched = Watched(c.attention_layers, c.attention_heads) if weight else None
            loss, lost = velocity_loss(
                self.parts, samples, drawn, c.draws, c.edit_weight, self.region_only, watched, self.channels
            )
        self.learner.descend(loss if lost is None else loss + weight * lost, step)
        values: dict[str, Tensor | float] = {"loss": loss.detach()}
        if lost is not None:
            values["attention"] = lost.detach()
        if self.validate_every and step % self.validate_every == 0:
            with self.learner.ema.applied(self.learner.module):
                values |= self.validate()
        return values

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss on the garment's own region for each category, on held-out scenes with noise that never changes."""
        if not self._held_out:
            self._held_out = held_out_by_category(self.parts, self.learner.config)
        result = {}
        for category, samples in self._held_out.items():
            total = 0.0
            for i, level in enumerate(_VALIDATION_LEVELS):
                batch = conditioned(self.parts, samples)
                eps = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(i)).to(batch.target)
                sigma = torch.full((len(samples),), level, device=eps.device)
                velocity = self.parts.dit(noised(batch, batch.target, eps, sigma)).float()
                weight = token_weights(samples, 0.0, region_only=True)
                total += float((weight * _squares(velocity - (eps - batch.target), self.channels)).mean())
            result[f"held_out_{category}"] = total / len(_VALIDATION_LEVELS)
        return result


def held_out_by_category(parts: NetworkParts, config: StageConfig, each: int = 4) -> dict[str, list[Tokens]]:
    """Single-garment scenes nobody trains on, `each` of every category."""
    source = WorldTryOns(config.height, config.shot, mix=(1.0,), balanced=True, edited_regions_only=True)
    first = HELD_OUT_SEED // 64 + 1_000
    drawn = encode(parts.encoder, source.draw(range(first, first + each * len(CATEGORIES))))
    groups: dict[str, list[Tokens]] = defaultdict(list)
    for sample in drawn:
        (category,) = (c for c in sample.categories if c != PERSON)
        groups[category].append(sample)
    return dict(sorted(groups.items()))
