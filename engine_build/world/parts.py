"""Finer regions than the labels of `specs`: which part of the body skin belongs to, where eyes and glasses are.

Labels are those of `engine_build.support.regions`, so that a drawn person is a parsed photo with nothing guessed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine_build.support.regions import LABEL, RegionMap
from engine_build.world.body import Skeleton, eye_distance, glasses_distance, skin_parts
from engine_build.world.shapes import cover
from engine_build.world.specs import BACKGROUND, FACE, HAIR, REGION_OF

FOOT = 0.018
"""A foot begins so far above the ankle's joint, in units of the picture's height."""
PART_OF = {
    BACKGROUND: LABEL["background"],
    FACE: LABEL["face"],
    HAIR: LABEL["hair"],
    **{label: LABEL[category] for category, label in REGION_OF.items()},
}
"""The finer label of each of `specs` but skin, which is several."""


def of_skin(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """(N, h, w) uint8: the part of the body nearest to each point, hands left out."""
    trunk, neck, arms, leg = skin_parts(s, x, y)
    names = torch.tensor([LABEL[name] for name in ("torso", "neck", "arms", "legs")], dtype=torch.uint8)
    nearest = torch.stack([trunk, neck, arms, leg]).argmin(0)
    parts = names[nearest]
    return parts.masked_fill_((parts == LABEL["legs"]) & (y > s.ankle_y - FOOT), LABEL["feet"])


def of_head(s: Skeleton, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(N, h, w) uint8: face, eyes, and glasses where they are worn."""
    eyes = eye_distance(s, x, y)
    parts = torch.full(eyes.shape, LABEL["face"], dtype=torch.uint8)
    parts.masked_fill_(cover(eyes, scale) > 0.5, LABEL["eyes"])
    worn = cover(glasses_distance(s, x, y), scale) * s.p.glasses
    return parts.masked_fill_(worn > 0.5, LABEL["eyewear"])


def region_map(parts: Tensor) -> RegionMap:
    """The parts (H, W) of one picture as the edit support reads them."""
    return RegionMap(parts.cpu().numpy())
