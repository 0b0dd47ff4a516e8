"""The pictures and region maps: reproducible, independent of their batch, and true to the scene."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine_build.world.render import (
    Rendered,
    garment_region,
    head_region,
    render,
    unchanged_background,
)
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.shots import product_shots
from engine_build.world.specs import CATEGORIES, HAIR, PATTERNS, REGION_OF, Scene, Worn

HEIGHT = 96


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(HELD_OUT_SEED + i, 1 + i % 6) for i in range(96)]


@pytest.fixture(scope="module")
def drawn(scenes: list[Scene]) -> Rendered:
    return render(scenes, HEIGHT)


def _scene_with(seed: int, **facts: object) -> tuple[Scene, Scene]:
    """A scene whose photo wears ``facts`` one way and whose target the other way, nothing else differing."""
    scene = sample_scene(seed, 6)
    field, value = next(iter(facts.items()))
    other = tuple(replace(w, **{field: not value}) for w in scene.target)
    same = tuple(replace(w, **{field: value}) for w in scene.target)
    return replace(scene, worn=same), replace(scene, worn=other)


def _photo(scene: Scene, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    r = render([scene], height)
    return r.person[0], r.person_regions[0]


def test_shapes_types_and_range(scenes: list[Scene], drawn: Rendered) -> None:
    b = len(scenes)
    assert drawn.person.shape == drawn.target.shape == (b, 3, HEIGHT, 72)
    assert drawn.garments.shape == (b, 6, 3, 48, 48)
    assert drawn.person_regions.shape == drawn.target_regions.shape == (b, HEIGHT, 72)
    assert drawn.person_regions.dtype == torch.uint8
    for picture in (drawn.person, drawn.target, drawn.garments):
        assert picture.dtype == torch.float32
        assert float(picture.min()) >= 0.0 and float(picture.max()) <= 1.0
    for i, scene in enumerate(scenes):
        n = len(scene.garments)
        assert drawn.counts[i] == n
        assert (drawn.garments[i, n:] == 0).all()
        assert (drawn.garments[i, :n].flatten(1).std(1) > 0.01).all()


def test_rendering_twice_gives_the_same_bits(scenes: list[Scene], drawn: Rendered) -> None:
    again = render(scenes, HEIGHT)
    assert torch.equal(again.person, drawn.person)
    assert torch.equal(again.target, drawn.target)
    assert torch.equal(again.garments, drawn.garments)


def test_a_sample_does_not_depend_on_its_batch(scenes: list[Scene], drawn: Rendered) -> None:
    for i in (0, 17, 41, 95):
        alone = render([scenes[i]], HEIGHT)
        n = len(scenes[i].garments)
        for name in ("person", "target"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(drawn, name)[i], rtol=0, atol=2e-5)
        torch.testing.assert_close(alone.garments[0, :n], drawn.garments[i, :n], rtol=0, atol=2e-5)
        assert (alone.target_regions[0] != drawn.target_regions[i]).sum() == 0


def test_photo_and_target_are_equal_where_no_changed_garment_is(scenes: list[Scene], drawn: Rendered) -> None:
    """Changed garments are drawn alone, so that what hides them counts as touched too."""
    alone = []
    for i, scene in enumerate(scenes):
        for worn in set(scene.worn) ^ set(scene.target):
            single = (replace(worn, bag_in_front=True),)
            alone.append((i, worn.spec.category, replace(scene, worn=single, target=single)))
    maps = render([scene for _, _, scene in alone], HEIGHT).person_regions
    touched = torch.zeros(len(scenes), HEIGHT, 72, dtype=torch.bool)
    for (i, category, _), regions in zip(alone, maps, strict=True):
        touched[i] |= garment_region(regions, category)
    for i, scene in enumerate(scenes):
        near = torch.nn.functional.max_pool2d(touched[i : i + 1].float(), 7, 1, 3)[0] > 0
        difference = (drawn.person[i] - drawn.target[i]).abs().amax(0)
        outside = difference.masked_fill(near, 0.0)
        assert float(outside.max()) == 0.0, (scene.seed, outside.argmax())
        assert float(difference.max()) > 0.1


def test_regions_hold_exactly_what_is_worn(scenes: list[Scene], drawn: Rendered) -> None:
    for i, scene in enumerate(scenes):
        for regions, outfit in (
            (drawn.person_regions[i], scene.worn),
            (drawn.target_regions[i], scene.target),
        ):
            worn = {REGION_OF[w.spec.category] for w in outfit}
            seen = set(regions.unique().tolist())
            assert seen - {0, 1, 2, 3} <= worn
            assert {0, 1, 2} <= seen


def test_every_requested_garment_can_be_seen(scenes: list[Scene], drawn: Rendered) -> None:
    for i, scene in enumerate(scenes):
        for g in scene.garments:
            area = int(garment_region(drawn.target_regions[i], g.category).sum())
            assert area >= 20, (g.category, scene.seed)


@pytest.mark.parametrize(
    ("category", "pattern"),
    [(c, p) for c in CATEGORIES for p in PATTERNS if p != "plain" and (c, p) != ("shoes", "logo")],
)
def test_each_pattern_shows_on_shot_and_person(category: str, pattern: str) -> None:
    scene = next(s for s in map(sample_scene, range(2000)) if s.garments[0].category == category)
    worn = next(w for w in scene.target if w.spec.category == category)
    spec = replace(worn.spec, pattern=pattern, colour="yellow", colour2="blue", fit=1.0, length=1.0)
    plain = replace(spec, pattern="plain")
    shots = product_shots([spec, plain], [scene.shots[0]] * 2)
    assert ((shots[0] - shots[1]).abs().amax(0) > 0.25).sum() > 20
    base = replace(scene, worn=(replace(worn, spec=spec, coat_open=False),))
    r = render([base, replace(base, worn=(replace(worn, spec=plain, coat_open=False),))], HEIGHT)
    assert ((r.person[0] - r.person[1]).abs().amax(0) > 0.25).sum() > 10


@pytest.mark.parametrize("seed", range(5))
def test_a_closed_coat_hides_the_top_that_an_open_one_reveals(seed: int) -> None:
    shown, hidden = _scene_with(seed, coat_open=True)
    open_map, closed_map = _photo(shown)[1], _photo(hidden)[1]
    top = REGION_OF["tops"]
    assert (open_map == top).sum() > 2 * (closed_map == top).sum()
    assert (closed_map == REGION_OF["coats"]).sum() > (open_map == REGION_OF["coats"]).sum()


@pytest.mark.parametrize("seed", range(5))
def test_an_untucked_top_covers_the_waistband_and_a_tucked_one_does_not(seed: int) -> None:
    scene = sample_scene(seed, 6)
    bare = tuple(w for w in scene.target if w.spec.category in ("tops", "pants", "skirts"))
    lower = next(REGION_OF[w.spec.category] for w in bare if w.spec.category != "tops")
    maps = {}
    for tucked in (True, False):
        outfit = tuple(replace(w, tucked=tucked) for w in bare)
        maps[tucked] = _photo(replace(scene, worn=outfit))[1]
    swapped = (maps[True] == lower) & (maps[False] == REGION_OF["tops"])
    assert swapped.sum() > 30
    assert ((maps[True] == REGION_OF["tops"]) & (maps[False] == lower)).sum() == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_bag_in_front_covers_the_arm_that_otherwise_covers_it(seed: int) -> None:
    front, behind = _scene_with(seed, bag_in_front=True)
    front_map, behind_map = _photo(front)[1], _photo(behind)[1]
    bag = REGION_OF["bags"]
    covered = (front_map == bag) & (behind_map != bag)
    assert covered.sum() > 20
    assert set(behind_map[covered].unique().tolist()) <= {0, 1, REGION_OF["coats"], REGION_OF["tops"]} | {
        REGION_OF["pants"],
        REGION_OF["skirts"],
    }
    assert (behind_map == bag).sum() > 20


def test_a_hat_lies_over_the_hair() -> None:
    scene = next(s for s in map(sample_scene, range(200)) if s.person.hair_style == 1.0)
    hat = next(w for s in map(sample_scene, range(200)) for w in s.target if w.spec.style == "beanie")
    bare, hatted = (replace(scene, worn=w) for w in ((), (hat,)))
    before, after = _photo(bare)[1], _photo(hatted)[1]
    assert ((before == HAIR) & (after == REGION_OF["hats"])).sum() > 50
    assert head_region(after).sum() < head_region(before).sum()


def test_a_pattern_has_the_same_scale_on_shot_and_person() -> None:
    """Horizontal stripes on a standing mannequin's dress repeat at ``period`` picture heights."""
    scene = next(s for s in map(sample_scene, range(500)) if s.garments[0].category == "dresses")
    spec = replace(
        scene.garments[0],
        pattern="stripes",
        period=0.08,
        phase=(0.0, 0.0),
        colour="white",
        colour2="black",
        hood=False,
    )
    picture, regions = _photo(replace(scene, worn=(Worn(spec),)), 384)
    column = round(scene.person.cx * 384)
    line = picture[:, regions[:, column] == REGION_OF["dresses"], column].mean(0)
    dark = (line < 0.45).int()
    starts = (dark[1:] - dark[:-1] == 1).nonzero().flatten().float()
    assert len(starts) >= 3
    assert abs(float((starts[1:] - starts[:-1]).median()) - 0.08 * 384) <= 2.0


def test_the_picture_is_the_same_at_every_size(scenes: list[Scene]) -> None:
    small, large = render(scenes[:8], 96), render(scenes[:8], 384)
    shrunk = torch.nn.functional.avg_pool2d(large.target, 4)
    assert float((shrunk - small.target).abs().mean()) < 0.012


def test_unchanged_background_is_most_of_the_background(drawn: Rendered) -> None:
    mask = unchanged_background(drawn.person_regions, drawn.target_regions)
    assert mask.float().mean() > 0.5
    both = mask.unsqueeze(1).expand_as(drawn.person)
    assert float((drawn.person - drawn.target)[both].abs().mean()) < 0.004


@pytest.mark.parametrize(("count", "height"), [(0, 96), (1, 95)])
def test_empty_batches_and_crooked_heights_are_refused(count: int, height: int) -> None:
    with pytest.raises(ValueError, match=r"at least one scene|multiple of 4"):
        render([sample_scene(i) for i in range(count)], height)
