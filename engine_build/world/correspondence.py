"""Where each pixel of a target comes from: which reference shows it, and at which point.

Exact from the garments' own coordinates: cloth worn by the person and cloth on a product shot are the same function of
them, so the point of the shot with a pixel's coordinates has its colour (folds, light and pose apart). What photo and
target show alike comes from the photo's own pixel. Skin, cloth and background that only come to light in the target
come from nowhere: no reference shows them.

Attention supervised by such correspondences: Leffa (arXiv 2412.08486); ours is a cross-entropy
(`engine_build.training.stages.attention`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine_build.world.shots import places_on_shots
from engine_build.world.specs import Scene, Worn

NOWHERE = -1
PHOTO = 0
ALIKE = 0.5 / 255


class Trace:
    """Filled while the targets of a batch are painted, back to front; pictures count photos first, then targets."""

    def __init__(self, scenes: list[Scene], height: int, width: int) -> None:
        self._scenes = scenes
        self._sources = torch.full((len(scenes), height, width), NOWHERE, dtype=torch.int8)
        self._places = torch.zeros(len(scenes), height, width, 2)

    def cover(self, index: Tensor, rows: slice, cols: slice, coverage: Tensor) -> None:
        """Something was painted on pictures ``index`` (M,): what it mostly covers shows no garment from below."""
        own = index >= len(self._scenes)
        if bool(own.any()):
            target = index[own] - len(self._scenes)
            covered = coverage.expand(len(index), -1, -1)[own] > 0.5
            names = self._sources[target, rows, cols]
            self._sources[target, rows, cols] = names.masked_fill_(covered, NOWHERE)

    def garments(
        self, index: Tensor, rows: slice, cols: slice, coverage: Tensor, items: list[Worn], u: Tensor, v: Tensor
    ) -> None:
        """Garments ``items`` of one category were painted on pictures ``index`` at own coordinates (M, h, w)."""
        for_shots = [
            (m, scene, slot)
            for m, (picture, worn) in enumerate(zip(index.tolist(), items, strict=True))
            if (scene := picture - len(self._scenes)) >= 0
            for slot, spec in enumerate(self._scenes[scene].garments)
            if spec is worn.spec
        ]
        if not for_shots:
            return
        chosen, scenes, slots = (torch.tensor(part) for part in zip(*for_shots, strict=True))
        specs = [self._scenes[scene].garments[slot] for _, scene, slot in for_shots]
        shots = [self._scenes[scene].shots[slot] for _, scene, slot in for_shots]
        places, shown = places_on_shots(specs[0].category, specs, shots, u[chosen], v[chosen])
        here = (coverage[chosen] > 0.5) & shown
        names = self._sources[scenes, rows, cols]
        self._sources[scenes, rows, cols] = torch.where(here, (slots + 1).to(torch.int8)[:, None, None], names)
        kept = self._places[scenes, rows, cols]
        self._places[scenes, rows, cols] = torch.where(here[..., None], places, kept)

    def completed(self, person: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sources (B, H, W) int8 and places (B, H, W, 2), the photo's included; pictures are (B, 3, H, W)."""
        alike = ((person - target).abs().amax(1) < ALIKE) & (self._sources == NOWHERE)
        height, width = alike.shape[1:]
        row, column = torch.meshgrid(
            (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
        )
        here = torch.stack([column, row], -1).expand_as(self._places)
        return self._sources.masked_fill(alike, PHOTO), torch.where(alike[..., None], here, self._places)
