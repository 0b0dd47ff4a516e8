"""The world's finer regions: they refine its labels, cost nothing where they are not wanted, and serve the support."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_figures import overlap

from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import Options, edit_support
from engine_build.support.regions import LABEL
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.world.parts import PART_OF, region_map
from engine_build.world.render import Rendered, render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import FACE, SKIN, Scene

HEIGHT = 192
OF_SKIN = ("neck", "torso", "arms", "hands", "legs", "feet")


@pytest.fixture(scope="module")
def drawn() -> Rendered:
    return render([sample_scene(i) for i in range(32)], HEIGHT, 32, parts=True)


def test_parts_refine_the_labels_and_change_nothing_else(drawn: Rendered) -> None:
    plain = render([sample_scene(i) for i in range(32)], HEIGHT, 32)
    assert plain.person_parts is None and plain.target_parts is None
    assert torch.equal(plain.person, drawn.person) and torch.equal(plain.person_regions, drawn.person_regions)
    for labels, parts in ((drawn.person_regions, drawn.person_parts), (drawn.target_regions, drawn.target_parts)):
        assert parts is not None
        for label, part in PART_OF.items():
            if label != FACE:
                assert torch.equal(labels == label, parts == part)
        assert set(parts[labels == SKIN].unique().tolist()) <= {LABEL[name] for name in OF_SKIN}
        assert set(parts[labels == FACE].unique().tolist()) <= {LABEL[name] for name in ("face", "eyes", "eyewear")}


def test_each_part_of_the_body_is_where_it_belongs(drawn: Rendered) -> None:
    assert drawn.person_parts is not None
    rows = torch.arange(HEIGHT)[None, :, None].expand_as(drawn.person_parts) / HEIGHT
    middle = {name: float(rows[drawn.person_parts == LABEL[name]].mean()) for name in ("eyes", "neck", "hands", "legs")}
    assert middle["eyes"] < middle["neck"] < middle["hands"] < middle["legs"]
    for scene, parts in zip([sample_scene(i) for i in range(32)], drawn.person_parts, strict=True):
        assert bool((parts == LABEL["eyewear"]).any()) == (scene.person.glasses > 0)
        assert (parts == LABEL["hands"]).any()


@pytest.mark.parametrize("domain", ["top", "bottom", "dress", "coat", "shoes", "hat", "bag"])
def test_whatever_a_try_on_of_a_domain_changes_lies_in_its_support_or_in_what_it_keeps(domain: str) -> None:
    """The old garment goes and the new one fits, whichever two of the world's garments these are."""
    source = WorldTryOns(HEIGHT, 32, mix=(1.0,), categories=DOMAINS[domain].categories)
    scenes = [source.scene(number) for number in range(24)]
    batch = render(scenes, HEIGHT, 32, parts=True)
    assert batch.person_parts is not None
    missed = []
    for i, parts in enumerate(batch.person_parts):
        regions = region_map(parts)
        found = edit_support(regions, DOMAINS[domain], size=(HEIGHT * 3 // 4, HEIGHT))
        changed = ((batch.person[i] - batch.target[i]).abs().amax(0) > 0.03).numpy()
        missed.append((changed & ~found & ~regions.mask(DOMAINS[domain].keeps)).sum() / max(1, changed.sum()))
        assert (changed & found).sum() > 0.8 * changed.sum()
    assert sum(missed) / len(missed) < 0.01 and max(missed) < 0.08


@pytest.mark.parametrize(("domain", "field", "values"), [("top", "sleeves", (0.0, 2.0)), ("dress", "fit", (0.0, 1.0))])
def test_the_support_of_a_drawn_person_does_not_tell_what_they_wear(
    domain: str, field: str, values: tuple[float, float]
) -> None:
    category = DOMAINS[domain].categories[0]
    for seed in range(6):
        scene = next(
            s
            for s in map(sample_scene, range(1000 * seed, 1000 * seed + 1000))
            if any(w.spec.category == category for w in s.worn) and not any(w.spec.category == "coats" for w in s.worn)
        )
        parts = render(
            [_worn_otherwise(scene, category, field, v) for v in values], HEIGHT, 32, parts=True
        ).person_parts
        assert parts is not None
        a, b = (edit_support(region_map(p), DOMAINS[domain], Options(), size=(144, HEIGHT)) for p in parts)
        assert overlap(a, b) > 0.88


def _worn_otherwise(scene: Scene, category: str, field: str, value: float) -> Scene:
    worn = tuple(
        replace(w, spec=replace(w.spec, **{field: value}, hood=False)) if w.spec.category == category else w
        for w in scene.worn
    )
    return replace(scene, worn=worn)
