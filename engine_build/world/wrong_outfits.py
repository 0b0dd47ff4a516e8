"""The pictures an output is compared with: every truth its instruction allows, and what would be wrong.

All pictures of a batch of scenes come from few calls of the renderer, because a call costs as much as several
pictures. It draws two outfits of each scene (the photo's and the target's), so two alternatives share one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from engine_build.world.casting import hanging_sides
from engine_build.world.render import garment_region, render
from engine_build.world.scenes import sample_garment
from engine_build.world.specs import SMALLEST, GarmentSpec, Scene, Worn

CANDIDATES = 16
_SMALLEST_SHOT = 8
_SCENES_A_CALL = 96

Outfit = tuple[Worn, ...]


@dataclass(frozen=True)
class Truth:
    """A scene drawn: photo (3, H, W), target, region maps (H, W), and the scene whose target it is."""

    scene: Scene
    person: Tensor
    target: Tensor
    before: Tensor
    after: Tensor

    def shown(self) -> list[tuple[GarmentSpec, Tensor]]:
        """Requested garments that show on at least `SMALLEST` pixels, with their masks (H, W)."""
        pairs = [(g, garment_region(self.after, g.category)) for g in self.scene.garments]
        return [(g, mask) for g, mask in pairs if int(mask.sum()) >= SMALLEST]


@dataclass(frozen=True)
class WrongOutfits:
    """Wrong versions of one truth, by category of the garment that is wrong.

    `others` holds pictures (15, 3, H, W) and region maps (15, H, W) with another garment of the category in
    its place; `without` the picture with nothing there; `opposite` the picture with what the instruction says
    about the garment's layer turned round.
    """

    others: dict[str, tuple[Tensor, Tensor]]
    without: dict[str, Tensor]
    opposite: dict[str, Tensor]


def draw(outfits: list[tuple[Scene, Outfit]], height: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) and region maps (N, H, W) of N outfits, each on its scene's person."""
    pairs: list[Scene] = []
    place: list[tuple[int, int]] = []
    for scene, outfit in outfits:
        if place and place[-1][1] == 0 and _same_person(outfits[len(place) - 1][0], scene):
            pairs[-1] = replace(pairs[-1], target=outfit)
            place.append((len(pairs) - 1, 1))
        else:
            one, shot = scene.garments[:1], scene.shots[:1]
            pairs.append(replace(scene, worn=outfit, target=outfit, garments=one, shots=shot))
            place.append((len(pairs) - 1, 0))
    calls = [pairs[i : i + _SCENES_A_CALL] for i in range(0, len(pairs), _SCENES_A_CALL)]
    drawn = [render(scenes, height, _SMALLEST_SHOT) for scenes in calls]
    pictures = torch.cat([torch.stack([d.person, d.target], 1) for d in drawn])
    maps = torch.cat([torch.stack([d.person_regions, d.target_regions], 1) for d in drawn])
    rows, sides = (torch.tensor(column) for column in zip(*place, strict=True))
    return pictures[rows, sides], maps[rows, sides]


def _same_person(a: Scene, b: Scene) -> bool:
    return a.person is b.person and a.backdrop is b.backdrop


def rewear(outfit: Outfit, category: str, **changes: object) -> Outfit:
    """The outfit with fields of its garment of `category` replaced (`spec` included)."""
    return tuple(replace(w, **changes) if w.spec.category == category else w for w in outfit)  # type: ignore[arg-type]


def allowed(scene: Scene) -> list[Outfit]:
    """Every outfit the instruction allows; the sampled one first.

    Open are the coat's front, the shirt's hem and the bag's place where nothing is said of them, and the
    bag's side where the photo shows no bag that could keep its own and both arms hang: at most 16.
    """
    asked, layering = {g.category for g in scene.garments}, scene.layering
    choices: list[tuple[str, str, tuple[object, ...]]] = []
    if "coats" in asked and layering.coat_open_specified is None:
        choices.append(("coats", "coat_open", (True, False)))
    if "tops" in asked and layering.tucked_specified is None:
        choices.append(("tops", "tucked", (True, False)))
    if "bags" in asked:
        sides = hanging_sides(scene.person)
        if len(sides) > 1 and all(w.spec.category != "bags" for w in scene.worn):
            choices.append(("bags", "bag_side", tuple(sides)))
        if layering.bag_in_front_specified is None:
            choices.append(("bags", "bag_in_front", (True, False)))
    outfits = [scene.target]
    for values in itertools.product(*(options for _, _, options in choices)):
        outfit = scene.target
        for (category, name, _), value in zip(choices, values, strict=True):
            outfit = rewear(outfit, category, **{name: value})
        if outfit != scene.target:
            outfits.append(outfit)
    return outfits


def admissible(scenes: list[Scene], height: int) -> list[list[Truth]]:
    """A scene, every truth its instruction allows; the sampled one first."""
    options = [allowed(scene) for scene in scenes]
    wanted = [(s, outfit) for s, some in zip(scenes, options, strict=True) for outfit in (s.worn, *some)]
    pictures, maps = draw(wanted, height)
    result, row = [], 0
    for scene, outfits in zip(scenes, options, strict=True):
        photo = row
        truths = []
        for row, outfit in enumerate(outfits, start=photo + 1):
            truths.append(Truth(replace(scene, target=outfit), pictures[photo], pictures[row], maps[photo], maps[row]))
        result.append(truths)
        row += 1
    return result


def wrong_for(truths: list[Truth], others: bool = True) -> list[WrongOutfits]:
    """What would be wrong about each truth, of the requested garments that show.

    `others=False` leaves out other garments of a category, which only retrieval needs and most drawing goes into.
    """
    found = [WrongOutfits({}, {}, {}) for _ in truths]
    wrong = [(i, *one) for i, truth in enumerate(truths) for one in _wrong(truth) if others or one[0] != "other"]
    if not wrong:
        return found
    pictures, maps = draw([(truths[i].scene, outfit) for i, _, _, outfit in wrong], truths[0].target.shape[1])
    drawn: dict[tuple[int, str], list[int]] = {}
    for row, (i, kind, category, _) in enumerate(wrong):
        if kind == "without":
            found[i].without[category] = pictures[row]
        elif kind == "opposite":
            found[i].opposite[category] = pictures[row]
        else:
            drawn.setdefault((i, category), []).append(row)
    for (i, category), rows in drawn.items():
        found[i].others[category] = (pictures[rows], maps[rows])
    return found


def _wrong(truth: Truth) -> list[tuple[str, str, Outfit]]:
    scene, outfit, result = truth.scene, truth.scene.target, []
    said = {
        "coats": ("coat_open", scene.layering.coat_open_specified),
        "tops": ("tucked", scene.layering.tucked_specified),
        "bags": ("bag_in_front", scene.layering.bag_in_front_specified),
    }
    for garment, _ in truth.shown():
        category = garment.category
        rng = Random(f"{scene.seed}/{category}")
        for _ in range(CANDIDATES - 1):
            other = sample_garment(rng, category)
            result.append(("other", category, rewear(outfit, category, spec=other)))
        result.append(("without", category, tuple(w for w in outfit if w.spec.category != category)))
        name, value = said.get(category, ("", None))
        if value is not None:
            result.append(("opposite", category, rewear(outfit, category, **{name: not value})))
    return result
