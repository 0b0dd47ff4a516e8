"""Stage C's source: try-ons of the procedural world, balanced over categories and numbers of garments."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_build.training.data.sample import PERSON, Sample
from engine_build.world.instructions import with_aside
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import CATEGORIES, FACE, HAIR, REGION_OF, Scene

ATTEMPTS = 64
"""Seeds a numbered sample may look through for a scene with the category whose turn it is."""
PATIENCE = 4
"""Times as many where no other category will do: an expert of coats is not to be shown dresses."""


@dataclass(frozen=True)
class WorldTryOns:
    """Scenes by number: `mix[k - 1]` is the frequency of k garments, and every eighth scene holds each category.

    `traced` samples know which reference shows each pixel. `rare` names patterns left out of all but one in
    `rare_one_in` scenes, for reinforcement to bring back.
    """

    height: int = 64
    shot: int = 32
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    balanced: bool = True
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    rare_one_in: int = 20
    edited_regions_only: bool = False
    device: torch.device | str = "cpu"
    traced: bool = False

    def scene(self, number: int) -> Scene:
        """The scene of a number; numbers from HELD_OUT_SEED / 64 upwards are never trained on."""
        rng = random.Random(f"try-on/{number}")
        count = rng.choices(range(1, len(self.mix) + 1), self.mix)[0]
        wanted = self.categories or CATEGORIES
        category = wanted[number % len(wanted)]
        allow_rare = rng.randrange(self.rare_one_in) == 0
        for attempt in range(ATTEMPTS * (PATIENCE if self.categories else 1)):
            scene = sample_scene(number * ATTEMPTS + attempt, count)
            rare = any(g.pattern in self.rare for g in scene.garments) and not allow_rare
            missing = (self.balanced or self.categories) and all(g.category != category for g in scene.garments)
            if not rare and not missing:
                break
        return scene

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples of scenes, drawn in batches of 16."""
        scenes = [self.scene(number) for number in numbers]
        result = []
        for i in range(0, len(scenes), 16):
            some = scenes[i : i + 16]
            drawn = render(some, self.height, self.shot, self.device, traced=self.traced)
            for j, scene in enumerate(some):
                before, after = drawn.person_regions[j], drawn.target_regions[j]
                garments = tuple(drawn.garments[j, k] for k in range(len(scene.garments)))
                result.append(
                    Sample(
                        references=(drawn.person[j], *garments),
                        categories=(PERSON, *(g.category for g in scene.garments)),
                        target=drawn.target[j],
                        instruction=with_aside(scene, random.Random(f"aside/{numbers[i + j]}")),
                        edited=concerned(scene, before, after, self.edited_regions_only),
                        scene=scene,
                        sources=None if drawn.sources is None else drawn.sources[j],
                        places=None if drawn.places is None else drawn.places[j],
                    )
                )
        return result


def concerned(scene: Scene, before: Tensor, after: Tensor, garments_only: bool = False) -> Tensor:
    """(H, W) how much a pixel is the instruction's business: garments and what changed 1, face and hair 1/2."""
    asked = torch.tensor([REGION_OF[g.category] for g in scene.garments], dtype=after.dtype, device=after.device)
    garments = torch.isin(after, asked)
    if garments_only:
        return garments.float()
    head = torch.tensor([FACE, HAIR], dtype=after.dtype, device=after.device)
    return (garments | (before != after)).float() + 0.5 * torch.isin(after, head).float()
