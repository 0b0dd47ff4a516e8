"""Scenes as latent training batches, a pure function of the step number.

Each number of garments has its own stream of chunks. A chunk is rendered and encoded once and visited
`passes` times in different groupings and with different noise, which halves the cost of rendering and of the
autoencoder. Inside one batch all layouts are equal, so packing costs nothing and no token is padding.

Letters: N scenes, K garments, L target tokens, C channels of a token, Lg tokens of one garment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine_build.training.data.encoder import Encoder
from engine_build.world.instructions import with_aside
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import FACE, HAIR, REGION_OF, Scene


@dataclass(frozen=True)
class Latents:
    """One batch of encoded scenes: person, target (N, L, C); garments (N, K, Lg, C); weight (N, L)."""

    person: Tensor
    garments: Tensor
    target: Tensor
    weight: Tensor
    instructions: tuple[str, ...]

    def rows(self, index: list[int]) -> Latents:
        return Latents(
            self.person[index],
            self.garments[index],
            self.target[index],
            self.weight[index],
            tuple(self.instructions[i] for i in index),
        )


@dataclass
class LatentStream:
    """Batches of `scenes` scenes. `mix[k-1]` is the relative frequency of k garments."""

    encoder: Encoder
    height: int = 96
    shot: int = 40
    scenes: int = 8
    mix: tuple[float, ...] = (1, 1, 1, 1, 1, 1)
    passes: int = 3
    chunk: int = 48
    edit_weight: float = 4.0
    first_seed: int = 0
    _chunks: dict[int, tuple[int, Latents]] = field(default_factory=dict)

    def batch(self, step: int) -> Latents:
        """The batch of this step; the same whatever was asked before."""
        k = self._garments(step)
        # Visits are counted over a window of steps so that resuming needs no replay of the whole past.
        visit = sum(self._garments(s) == k for s in range(step - step % 10_000, step)) + 10_000 * (step // 10_000)
        per_chunk = self.chunk * self.passes // self.scenes
        number, within = divmod(visit, per_chunk)
        held = self._chunks.get(k)
        if held is None or held[0] != number:
            held = (number, self._encode(k, number))
            self._chunks[k] = held
        order: list[int] = []
        for repeat in range(self.passes):
            one = list(range(self.chunk))
            random.Random(f"{k}/{number}/{repeat}").shuffle(one)
            order += one
        return held[1].rows(order[within * self.scenes : (within + 1) * self.scenes])

    def _garments(self, step: int) -> int:
        return random.Random(f"garments/{step}").choices(range(1, len(self.mix) + 1), self.mix)[0]

    def _encode(self, k: int, number: int) -> Latents:
        seeds = [self.first_seed + (number * self.chunk + i) * 6 + k - 1 for i in range(self.chunk)]
        scenes = [sample_scene(seed, k) for seed in seeds]
        parts = [self._encode_some(scenes[i : i + 16], k) for i in range(0, len(scenes), 16)]
        tensors = [torch.cat(column) for column in zip(*parts, strict=True)]
        rng = random.Random(f"asides/{k}/{number}")
        return Latents(*tensors, tuple(with_aside(scene, rng) for scene in scenes))

    def _encode_some(self, scenes: list[Scene], k: int) -> tuple[Tensor, ...]:
        drawn = render(scenes, self.height, self.shot)
        garments = self.encoder.encode(drawn.garments[:, :k].flatten(0, 1)).unflatten(0, (-1, k))
        weight = token_weight(scenes, drawn.person_regions, drawn.target_regions, self.edit_weight)
        return self.encoder.encode(drawn.person), garments, self.encoder.encode(drawn.target), weight


def token_weight(scenes: list[Scene], before: Tensor, after: Tensor, edit_weight: float, pixels: int = 8) -> Tensor:
    """(N, L) loss weights: 1 plus `edit_weight` times the share of edited or requested pixels of a token.

    Face and hair count half as much as an edit. Each sample's weights average to 1.
    """
    share = torch.zeros(before.shape)
    for i, scene in enumerate(scenes):
        asked = torch.tensor([REGION_OF[g.category] for g in scene.garments], dtype=after.dtype)
        share[i] = (torch.isin(after[i], asked) | (before[i] != after[i])).float()
        share[i] += 0.5 * torch.isin(after[i], torch.tensor([FACE, HAIR], dtype=after.dtype)).float()
    weight = 1 + edit_weight * torch.nn.functional.avg_pool2d(share[:, None], pixels).flatten(1)
    return weight / weight.mean(1, keepdim=True)
