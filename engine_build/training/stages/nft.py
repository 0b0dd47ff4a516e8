"""Stage D, DiffusionNFT: reinforcement on the forward process, without guidance (arXiv 2509.16117).

Groups of pictures are sampled from a slowly following old policy and scored. Flow matching on those pictures
then pulls an implicit positive policy `v+ = b v + (1 - b) v_old` towards the good ones and an implicit negative
policy `v- = (1 + b) v_old - b v` towards the bad ones. The reward is the geometric mean of four dimensions, so
that none can be bought with another; each is logged alone, and a purchase that happens all the same is warned of.

Letters: P prompts, G pictures of one prompt, M = P * G, T tokens of all targets, C channels, R dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.training.data.packed_batch import noised, per_token, sample_means
from engine_build.training.data.sample import Source, Tokens, encode
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner, StageConfig, autocast
from engine_build.training.loop.run import Run
from engine_build.training.loop.sharding import gathered, mean, placed
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.classifier import Classifier
from engine_build.training.measure.measures import DIMENSIONS, world_scores
from engine_build.training.measure.sampler import draw
from engine_build.training.stages.matching import noise_levels
from engine_build.training.stages.reward_watch import Watch
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


def completed(rewards: Tensor) -> Tensor:
    """(P, G) rewards with missing (NaN) ones at their prompt's mean, or that of all: neither good nor bad."""
    rows = rewards.nanmean(1, keepdim=True)
    rows = torch.where(rows.isnan(), rewards.nanmean().nan_to_num(), rows)
    return torch.where(rewards.isnan(), rows, rewards)


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


@dataclass(frozen=True)
class NftConfig(StageConfig):
    """`prompts` scenes a step over all processes, `group` pictures of each in `sample_steps` steps, `updates` descents.

    `slope` and `most` say how slowly the sampling policy follows, `anchor` weighs the distance from the start.
    With `judge_url` the vision model `judge_model` at that OpenAI-compatible address scores the pictures, at most
    `judge_budget` requests in a run of the command and process; its key is the content of `judge_key_file`. Of a
    group at most `micro` pictures go through the network at once, 0 for everything: memory against speed. With
    `common_noise` the pictures of a prompt are noised alike: their advantages sum to zero, so whatever the network
    gets wrong about all of them cancels out of the gradient.
    """

    prompts: int = 6
    group: int = 8
    sample_steps: int = 8
    updates: int = 2
    beta: float = 1.0
    slope: float = 0.01
    most: float = 0.5
    anchor: float = 1e-4
    mix: tuple[float, ...] = (1.0, 1.0, 1.0)
    ema: float = 0.9
    window: int = 20
    judge_url: str = ""
    judge_model: str = ""
    judge_key_file: str = ""
    judge_budget: int = 100_000
    micro: int = 0
    common_noise: bool = True


class Rewards(Protocol):
    """Anything that scores groups of pictures (G, 3, H, W), one group a sample, as (P, G, R); NaN is missing."""

    dimensions: Sequence[str]

    def __call__(self, pictures: Sequence[Tensor], samples: Sequence[Tokens]) -> Tensor: ...


class WorldRewards:
    """The four dimensions of scores.py against the procedural world's truth."""

    dimensions = DIMENSIONS

    def __init__(self, judge: Classifier) -> None:
        self.judge = judge

    def __call__(self, pictures: Sequence[Tensor], samples: Sequence[Tokens]) -> Tensor:
        scenes = [sample.scene for sample in samples if sample.scene is not None]
        rows = world_scores([list(group.cpu()) for group in pictures], scenes, self.judge)
        return torch.tensor([[[getattr(one, name) for name in DIMENSIONS] for one in row] for row in rows])


class OldPolicy:
    """The sampling policy: a frozen copy that follows the trained one. Its state is what distinguishes it."""

    def __init__(self, dit: MMDiT) -> None:
        self.dit = dit

    def state_dict(self) -> dict[str, Any]:
        return {name: tensor.detach() for name, tensor in adapters.tensors_of(self.dit).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in adapters.tensors_of(self.dit).items():
            tensor.copy_(placed(state[name], tensor))


class Nft:
    """One step: sample groups, score them, descend on them, let the old policy follow.

    `old` and `reference` are frozen copies of the network in `parts`. Raises RequestError when nothing was scored.
    """

    def __init__(
        self,
        parts: NetworkParts,
        learner: Learner,
        config: NftConfig,
        copies: tuple[MMDiT, MMDiT],
        source: Source,
        rewards: Rewards,
        run: Run,
    ) -> None:
        self.parts, self.learner, self.source, self.config = parts, learner, source, config
        self.rewards, self.run = rewards, run
        self.old, self.reference = OldPolicy(copies[0]), copies[1]
        self.watch = Watch(rewards.dimensions, config.window)

    def __call__(self, step: int) -> dict[str, Tensor | float]:
        c, place = self.config, self.learner.place
        first = c.first_seed + step * c.prompts
        samples = encode(
            self.parts.encoder, self.source.draw(range(first + place.rank, first + c.prompts, place.world))
        )
        generator = torch.Generator().manual_seed((c.seed << 40) + (step << 8) + place.rank)
        with torch.no_grad(), autocast(self.parts.device, c.bf16):
            pieces = self._pieces(samples)
            eps = _noise(pieces, generator)
            x0 = torch.cat(
                [draw(self.old.dit, p, part, self.parts.schedule, c.sample_steps) for p, part in _parted(pieces, eps)]
            )
        scores = self.rewards(self._pictures(x0, samples), samples)
        rewards = geometric(scores)
        everyone = gathered(rewards, place)
        if not bool(everyone.isfinite().any()):
            raise RequestError(f"no picture of step {step} was scored: see to the judge, then go on with --resume")
        everyone = completed(everyone)
        mine = slice(place.rank * len(samples), (place.rank + 1) * len(samples))
        good = optimality(advantages(everyone)[mine]).flatten().to(x0.device)
        loss = sum(self._descend(step, pieces, x0, good, generator) for _ in range(c.updates)) / c.updates
        adapters.blend(self.old.dit, self.parts.dit, follow(step, c.slope, c.most))
        by_name = mean(dict(zip(self.rewards.dimensions, scores.flatten(0, 1).nanmean(0), strict=True)), place)
        warning = self.watch.update(list(by_name.values()))
        if warning is not None:
            self.run.warn(step, warning)
        spread = everyone[mine].std(1, correction=0).mean()
        return {"reward": everyone[mine].mean(), "loss": loss, "spread": spread, **by_name}

    def _pieces(self, samples: Sequence[Tokens]) -> list[PackedBatch]:
        """All pictures in order, as batches of at most `micro` pictures of one prompt, or as one batch."""
        c = self.config
        if not c.micro:
            return [conditioned(self.parts, samples, c.group)]
        counts = [min(c.micro, c.group - begin) for begin in range(0, c.group, c.micro)]
        return [conditioned(self.parts, [sample], count) for sample in samples for count in counts]

    def _descend(
        self, step: int, pieces: Sequence[PackedBatch], x0: Tensor, good: Tensor, generator: torch.Generator
    ) -> Tensor:
        """One descent on all pictures: gradients add up over pieces, each weighed by its share."""
        c, targets, tokens = self.config, len(good), len(x0)
        alike = c.group if c.common_noise else 1
        sigma = noise_levels(targets // alike, c.shift, generator).repeat_interleave(alike).to(x0.device)
        eps = _noise(pieces, generator, alike)
        counts = [len(piece) for piece in pieces]
        rows = zip(_parted(pieces, x0), _parted(pieces, eps), sigma.split(counts), good.split(counts), strict=True)
        told, last = x0.new_zeros(()), len(pieces) - 1
        for i, ((piece, clean), (_, noise), levels, r) in enumerate(rows):
            noisy = noised(piece, clean, noise, levels)
            with autocast(self.parts.device, c.bf16):
                velocity = self.parts.dit(noisy).float()
                with torch.no_grad():
                    old, reference = self.old.dit(noisy).float(), self.reference(noisy).float()
            segments, level = piece.target_segments, per_token(piece, levels)
            loss = policy_loss(velocity, old, clean, noisy.target, level, r, segments, c.beta) * (len(r) / targets)
            told += loss.detach()
            loss = loss + c.anchor * anchor_loss(velocity, reference) * (len(clean) / tokens)
            if i < last:
                loss.backward()
            else:
                self.learner.descend(loss, step)
        return told

    def _pictures(self, x0: Tensor, samples: Sequence[Tokens]) -> list[Tensor]:
        """(G, 3, H, W) of each sample."""
        side, group = self.parts.encoder.token_pixels, self.config.group
        lengths = [group * len(sample.target) for sample in samples]
        return [
            self.parts.encoder.decode(tokens.unflatten(0, (group, -1)), sample.grid[0] * side, sample.grid[1] * side)
            for tokens, sample in zip(x0.split(lengths), samples, strict=True)
        ]


def _noise(pieces: Sequence[PackedBatch], generator: torch.Generator, alike: int = 1) -> Tensor:
    """(T, C) Gaussian noise for all pieces, the same however many there are; `alike` neighbours share theirs."""
    first = pieces[0].target
    lengths = [n for piece in pieces for n in piece.target_segments.lengths]
    rows = torch.randn(sum(lengths[::alike]), first.shape[1], generator=generator)
    return torch.cat([one.repeat(alike, 1) for one in rows.split(lengths[::alike])]).to(first.device)


def _parted(pieces: Sequence[PackedBatch], rows: Tensor) -> list[tuple[PackedBatch, Tensor]]:
    """Each piece with its own of all tokens' rows (T, ...)."""
    return list(zip(pieces, rows.split([len(piece.target) for piece in pieces]), strict=True))
