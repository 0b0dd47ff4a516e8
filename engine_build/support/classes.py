"""Common parsers' classes, by name, as regions: ATR, LIP, CIHP, DressCode, the fashn parser and what resembles them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engine_build.support.errors import SupportError
from engine_build.support.extremities import with_extremities
from engine_build.support.regions import LABEL, RegionMap

_REGION_OF = {
    "background": "background",
    "hat": "hats",
    "hair": "hair",
    "sunglasses": "eyewear",
    "glasses": "eyewear",
    "eyeglass": "eyewear",
    "eyewear": "eyewear",
    "upperclothes": "tops",
    "upperclothing": "tops",
    "top": "tops",
    "tops": "tops",
    "coat": "coats",
    "coats": "coats",
    "skirt": "skirts",
    "skirts": "skirts",
    "pants": "pants",
    "lowerclothing": "pants",
    "belt": "pants",
    "dress": "dresses",
    "dresses": "dresses",
    "jumpsuits": "dresses",
    "scarf": "accessory",
    "jewelry": "accessory",
    "apparel": "accessory",
    "accessory": "accessory",
    "face": "face",
    "head": "face",
    "faceneck": "face",
    "upperlip": "face",
    "lowerlip": "face",
    "upperteeth": "face",
    "lowerteeth": "face",
    "tongue": "face",
    "eyes": "eyes",
    "neck": "neck",
    "torso": "torso",
    "torsoskin": "torso",
    "arms": "arms",
    "hands": "hands",
    "glove": "hands",
    "legs": "legs",
    "feet": "feet",
    "foot": "feet",
    "socks": "feet",
    "sock": "feet",
    "shoes": "shoes",
    "shoe": "shoes",
    "bag": "bags",
    "bags": "bags",
    "hats": "hats",
    "arm": "arms",
    "upperarm": "arms",
    "lowerarm": "arms",
    "hand": "hands",
    "leg": "legs",
    "upperleg": "legs",
    "lowerleg": "legs",
}
"""By the name in lower case without its side, spaces and signs. A belt goes with what it holds up."""
SIDES = ("left", "right")

ATR = (
    "Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt", "Left-shoe",
    "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf",
)  # fmt: skip
LIP = (
    "Background", "Hat", "Hair", "Glove", "Sunglasses", "Upper-clothes", "Dress", "Coat", "Socks", "Pants",
    "Jumpsuits", "Scarf", "Skirt", "Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg", "Left-shoe",
    "Right-shoe",
)  # fmt: skip
CIHP = (*LIP[:10], "Torso-skin", *LIP[11:])
"""LIP's numbers, but for bare skin instead of jumpsuits: the parses of VITON-HD."""
DRESSCODE = (*ATR[:11], "Head", *ATR[12:], "Neck")
"""ATR's numbers and a neck (Morelli et al., 2022)."""


def region_of(name: str) -> str:
    """The region a parser's class belongs to. Raises SupportError for a class nobody knows."""
    plain, _ = _sided(name)
    region = _REGION_OF.get(plain)
    if region is None:
        raise SupportError("unknown-region", f"the parser's class {name!r} is none of the regions known here")
    return region


def from_classes(labels: npt.ArrayLike, names: Mapping[int, str] | tuple[str, ...]) -> RegionMap:
    """A parser's map (h, w) of its own class numbers as regions; hands and feet it does not name are told apart.

    Raises SupportError for a number without a name and a name without a region.
    """
    numbers = np.asarray(labels)
    classes = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    unknown = sorted(set(np.unique(numbers).tolist()) - set(classes))
    if unknown:
        raise SupportError("unknown-region", f"the parse holds classes {unknown}, which its parser does not name")
    table = np.zeros(max(classes) + 1, np.uint8)
    for number, name in classes.items():
        table[number] = LABEL[region_of(name)]
    regions = table[numbers]
    limbs = []
    for limb in ("arms", "legs"):
        for side in SIDES:
            members = [n for n, name in classes.items() if region_of(name) == limb and _sided(name)[1] == side]
            if members:
                limbs.append((limb, np.isin(numbers, members)))
    named = {region_of(name) for name in classes.values()}
    return RegionMap(with_extremities(regions, limbs, named))


def _sided(name: str) -> tuple[str, str]:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    side = next((word for word in words if word in SIDES), "")
    return "".join(word for word in words if word not in SIDES), side
