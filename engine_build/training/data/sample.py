"""One training sample: the seam between data, procedural or real, and every training stage.

A `Sample` is pictures and words as a data source delivers them, `Tokens` the same after the frozen autoencoder.
Sources draw samples by number, so that a batch is a pure function of its step and a run can be resumed exactly.

Letters: H, W picture; L target tokens, Lr tokens of a reference, C channels of a token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from engine_build.training.data.encoder import Encoder
from engine_build.world.specs import Scene

PERSON = "person"


@dataclass(frozen=True)
class Sample:
    """References (3, h, w) with their categories, the first of them the picture to edit, and its truth.

    `edited` (H, W) in [0, 1] says how much the instruction concerns a pixel of the target (3, H, W), None where
    nobody knows; `scene` is the procedural truth behind the pictures, for exact rewards.
    """

    references: tuple[Tensor, ...]
    categories: tuple[str, ...]
    target: Tensor
    instruction: str
    edited: Tensor | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class Tokens:
    """A sample as normalised tokens: target (L, C) on `grid` (rows, columns), references (Lr, C) on theirs.

    `share` (L,) is the share of a token's pixels that the instruction concerns.
    """

    target: Tensor
    grid: tuple[int, int]
    references: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    categories: tuple[str, ...]
    instruction: str
    share: Tensor
    scene: Scene | None = None

    def unconditioned(self) -> Tokens:
        """What classifier-free training shows instead: the picture to edit, no words, no garments."""
        return replace(
            self,
            references=self.references[:1],
            grids=self.grids[:1],
            categories=self.categories[:1],
            instruction="",
        )


class Source(Protocol):
    """Anything that draws samples by number."""

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """One sample a number; the same number always gives the same sample."""
        ...


class Stream(Protocol):
    """Anything that has a batch for every step."""

    def batch(self, step: int) -> list[Tokens]:
        """The batch of this step; the same whatever was asked before."""
        ...


def encode(encoder: Encoder, samples: Sequence[Sample], chunk: int = 32) -> list[Tokens]:
    """Tokens of samples. Pictures of one size go through the autoencoder together."""
    pictures: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    places: list[list[tuple[tuple[int, ...], int]]] = []
    for sample in samples:
        row = []
        for picture in (sample.target, *sample.references):
            same = pictures[tuple(picture.shape)]
            row.append((tuple(picture.shape), len(same)))
            same.append(picture)
        places.append(row)
    tokens = {
        shape: torch.cat([encoder.encode(torch.stack(same[i : i + chunk])) for i in range(0, len(same), chunk)])
        for shape, same in pictures.items()
    }
    side = encoder.token_pixels
    result = []
    for sample, row in zip(samples, places, strict=True):
        target, *references = (tokens[shape][i] for shape, i in row)
        grid, *grids = ((shape[1] // side, shape[2] // side) for shape, _ in row)
        edited = torch.zeros(sample.target.shape[1:]) if sample.edited is None else sample.edited
        share = torch.nn.functional.avg_pool2d(edited[None].to(target), side).flatten()
        result.append(
            Tokens(
                target,
                grid,
                tuple(references),
                tuple(grids),
                sample.categories,
                sample.instruction,
                share,
                sample.scene,
            )
        )
    return result
