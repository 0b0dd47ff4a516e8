"""One training sample: the seam between data, procedural or real, and every training stage.

A `Sample` is pictures and words as a data source delivers them, `Tokens` the same after the frozen autoencoder.
Sources draw samples by number, so that a batch is a pure function of its step and a run can be resumed exactly.

Letters: H, W picture; L target tokens, Lr tokens of a reference, C channels of a token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
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
    nobody knows; `scene` is the procedural truth behind the pictures, for exact rewards. `sources` (H, W) and `places`
    (H, W, 2) say which reference shows each pixel of the target, and where (`world.correspondence`).
    """

    references: tuple[Tensor, ...]
    categories: tuple[str, ...]
    target: Tensor
    instruction: str
    edited: Tensor | None = None
    scene: Scene | None = None
    sources: Tensor | None = None
    places: Tensor | None = None


@dataclass(frozen=True)
class Tokens:
    """A sample as normalised tokens: target (L, C) on `grid` (rows, columns), references (Lr, C) on theirs.

    `share` (L,) is the share of a token's pixels that the instruction concerns, `shown` (L, sum of Lr) the share of
    them that each reference token shows, None where nobody knows.
    """

    target: Tensor
    grid: tuple[int, int]
    references: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    categories: tuple[str, ...]
    instruction: str
    share: Tensor
    scene: Scene | None = None
    shown: Tensor | None = None

    def unconditioned(self) -> Tokens:
        """What classifier-free training shows instead: the picture to edit, no words, no garments."""
        return replace(
            self,
            references=self.references[:1],
            grids=self.grids[:1],
            categories=self.categories[:1],
            instruction="",
            shown=None if self.shown is None else self.shown[:, : len(self.references[0])],
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
                shown_by(sample, grid, grids),
            )
        )
    return result


def shown_by(sample: Sample, grid: tuple[int, int], grids: Sequence[tuple[int, int]]) -> Tensor | None:
    """(L, sum of Lr): the share of each target token's pixels that a reference token shows; None where nobody knows."""
    if sample.sources is None or sample.places is None:
        return None
    height, width = sample.sources.shape
    device = sample.sources.device
    rows = torch.arange(height, device=device)[:, None] * grid[0] // height
    columns = torch.arange(width, device=device)[None, :] * grid[1] // width
    token = (rows * grid[1] + columns).expand(height, width)
    starts = torch.tensor([0, *accumulate(r * c for r, c in grids)], device=device)
    sizes = torch.tensor(grids, device=device)  # (R, 2)
    known = sample.sources >= 0
    source = sample.sources[known].long()
    place = sample.places[known]
    row = (place[:, 1] * sizes[source, 0]).long().clamp_min(0).minimum(sizes[source, 0] - 1)
    column = (place[:, 0] * sizes[source, 1]).long().clamp_min(0).minimum(sizes[source, 1] - 1)
    reference = starts[source] + row * sizes[source, 1] + column
    total = int(starts[-1])
    counts = torch.bincount(token[known] * total + reference, minlength=grid[0] * grid[1] * total)
    return counts.view(-1, total).float() / (height * width / (grid[0] * grid[1]))
