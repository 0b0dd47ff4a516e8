"""Parsers' classes by name: the usual label sets in whole, hands and feet they lack, what is not understood."""

from __future__ import annotations

import numpy as np
import pytest
from support_figures import standing

from engine_build.support.classes import ATR, CIHP, DRESSCODE, LIP, from_classes, region_of
from engine_build.support.errors import SupportError
from engine_build.support.regions import LABEL, NAMES, RegionMap

FASHN = (
    "background", "face", "hair", "top", "dress", "skirt", "pants", "belt", "bag", "hat", "scarf", "glasses",
    "arms", "hands", "legs", "feet", "torso", "jewelry",
)  # fmt: skip
SAPIENS = (
    "Background", "Apparel", "Face_Neck", "Hair", "Left_Foot", "Left_Hand", "Left_Lower_Arm", "Left_Lower_Leg",
    "Left_Shoe", "Left_Sock", "Left_Upper_Arm", "Left_Upper_Leg", "Lower_Clothing", "Right_Foot", "Right_Hand",
    "Right_Lower_Arm", "Right_Lower_Leg", "Right_Shoe", "Right_Sock", "Right_Upper_Arm", "Right_Upper_Leg", "Torso",
    "Upper_Clothing", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue",
)  # fmt: skip
TO_ATR = {"tops": 4, "pants": 6, "face": 11, "eyes": 11, "hair": 2, "shoes": 9}


@pytest.mark.parametrize("names", [ATR, LIP, CIHP, DRESSCODE, FASHN, SAPIENS])
def test_every_class_of_the_usual_parsers_is_a_region(names: tuple[str, ...]) -> None:
    assert {region_of(name) for name in names} <= set(NAMES)
    found = from_classes(np.arange(len(names)).reshape(1, -1), tuple(names))
    assert found.labels.shape == (1, len(names))


@pytest.mark.parametrize(
    ("names", "number", "region"),
    [(ATR, 4, "tops"), (ATR, 8, "pants"), (LIP, 7, "coats"), (LIP, 10, "dresses"), (CIHP, 10, "torso"),
     (LIP, 3, "hands"), (CIHP, 19, "shoes"), (DRESSCODE, 11, "face"), (DRESSCODE, 16, "bags"), (DRESSCODE, 18, "neck")],
)  # fmt: skip
def test_numbers_of_published_label_sets(names: tuple[str, ...], number: int, region: str) -> None:
    assert region_of(names[number]) == region


def atr(figure: RegionMap) -> np.ndarray:
    """The figure as a parser of ATR's classes would see it: hands are ends of arms, feet of legs."""
    labels = np.zeros(figure.labels.shape, np.uint8)
    for name, number in TO_ATR.items():
        labels[figure.mask((name,))] = number
    left = np.arange(labels.shape[1])[None, :] < labels.shape[1] // 2
    for names, (a, b) in ((("arms", "hands"), (14, 15)), (("legs", "feet"), (12, 13))):
        seen = figure.mask(names)
        labels[seen & left], labels[seen & ~left] = a, b
    return labels


@pytest.mark.parametrize("sleeves", ["arms", "tops"])
def test_hands_are_told_from_arms_by_a_parser_that_knows_only_arms(sleeves: str) -> None:
    figure = standing(sleeves=sleeves)
    found = from_classes(atr(figure), ATR)
    hands, truth = found.mask(("hands",)), figure.mask(("hands",))
    assert (hands & truth).sum() > 0.95 * truth.sum()
    assert (hands & ~truth).sum() < truth.sum()
    if sleeves == "arms":
        assert found.mask(("arms",)).sum() > 0.6 * figure.mask(("arms",)).sum()


def test_bare_feet_are_told_from_legs_and_shod_ones_are_not() -> None:
    shod = standing(lower="legs")
    bare = RegionMap(np.where(shod.labels == LABEL["shoes"], LABEL["legs"], shod.labels).astype(np.uint8))
    assert not from_classes(atr(shod), ATR).mask(("feet",)).any()
    feet = from_classes(atr(bare), ATR).mask(("feet",))
    assert feet[350:].any() and not feet[: int(0.9 * 384)].any()


def test_what_a_parser_names_itself_is_left_alone() -> None:
    numbers = {name: number for number, name in enumerate(FASHN)}
    labels = np.full((40, 40), numbers["arms"])
    labels[:10] = numbers["face"]
    labels[30:] = numbers["hands"]
    found = from_classes(labels, tuple(FASHN))
    assert found.mask(("hands",)).sum() == 400


def test_classes_nobody_knows_and_numbers_without_a_name_are_refused() -> None:
    for labels, names in ((np.zeros((4, 4), int), {0: "spoon"}), (np.full((4, 4), 7), {0: "background"})):
        with pytest.raises(SupportError) as caught:
            from_classes(labels, names)
        assert caught.value.code == "unknown-region"
    for broken in (np.zeros((4, 4), np.int64), np.full((4, 4), 99, np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(SupportError):
            RegionMap(broken)  # type: ignore[arg-type]
    with pytest.raises(SupportError, match="no region 'sock'"):
        standing().mask(("sock",))
