"""The bundled parser: on scenes nobody trained on, the support it leads to is that of the truth, all but its edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support_figures import overlap

from engine_build.regions.registry import providers
from engine_build.regions.world import HEIGHT, WEIGHTS, WorldRegions
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import edit_support
from engine_build.support.regions import LABEL, RegionMap
from engine_build.world.parts import region_map
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene

SCENES = 32


@pytest.fixture(scope="module")
def parsed() -> list[tuple[RegionMap, RegionMap]]:
    """What the parser sees, and what is there, of held-out photos at 192 rows."""
    drawn = render([sample_scene(HELD_OUT_SEED + 40_000 + i) for i in range(SCENES)], 192, 8, parts=True)
    parser = providers().named("world")
    assert drawn.person_parts is not None
    return [(parser(picture(p)), region_map(q)) for p, q in zip(drawn.person, drawn.person_parts, strict=True)]


def test_it_is_small() -> None:
    assert WEIGHTS.stat().st_size <= 300_000


def test_it_tells_the_regions_of_scenes_nobody_trained_on(parsed: list[tuple[RegionMap, RegionMap]]) -> None:
    seen = np.concatenate([a.at(192, 144).labels for a, _ in parsed])
    truth = np.concatenate([b.labels for _, b in parsed])
    assert (seen == truth).mean() > 0.93
    parts = [("face",), ("hair",), ("hands",), ("legs",), ("tops",), ("pants",), ("shoes",), ("skirts", "dresses")]
    for names in parts:  # a skirt under a top of its colour is a dress to anybody who only looks
        a, b = (np.isin(one, [LABEL[name] for name in names]) for one in (seen, truth))
        assert overlap(a, b) > 0.5, names


@pytest.mark.parametrize("domain", ["top", "bottom", "dress", "shoes", "hat", "bag", "face", "eye", "bg"])
def test_the_support_it_leads_to_is_that_of_the_truth(parsed: list[tuple[RegionMap, RegionMap]], domain: str) -> None:
    found = []
    for seen, truth in parsed:
        a, b = (edit_support(regions, DOMAINS[domain], size=(144, 192)) for regions in (seen, truth))
        found.append(overlap(a, b))
    assert sum(found) / len(found) > 0.8, found


def test_photos_of_any_size_are_parsed_alike() -> None:
    drawn = render([sample_scene(HELD_OUT_SEED + 41_000)], 384, 8)
    photo = picture(drawn.person[0])
    parser = WorldRegions()
    plain = parser(photo)
    assert plain.labels.shape == (HEIGHT, 96)
    large = parser(photo.resize((1500, 2000), Image.Resampling.BICUBIC))
    assert (plain.labels == large.labels).mean() > 0.97
    for size in ((37, 41), (400, 100), (8, 300)):
        assert parser(Image.new("RGB", size)).labels.shape[0] == HEIGHT


def test_it_is_the_same_in_any_number_of_threads() -> None:
    photo = picture(render([sample_scene(HELD_OUT_SEED + 42_000)], 192, 8).person[0])
    before = torch.get_num_threads()
    try:
        maps = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            maps.append(WorldRegions()(photo).labels)
    finally:
        torch.set_num_threads(before)
    assert (maps[0] == maps[1]).mean() > 0.999
