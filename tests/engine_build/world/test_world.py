"""The sampled scenes: reproducible, compatible, balanced, and honest about what the instruction says."""

from collections import Counter

import pytest

from engine_build.instruction import MAX_GARMENTS
from engine_build.world.scenes import HELD_OUT_SEED, sample_categories, sample_scene
from engine_build.world.specs import CATEGORIES, LOGOS, PALETTE, PATTERNS, Scene

SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 600)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(seed) for seed in SEEDS]


def test_a_scene_is_a_function_of_its_seed(scenes: list[Scene]) -> None:
    assert [sample_scene(seed) for seed in reversed(SEEDS)] == scenes[::-1]
    assert len({s.person for s in scenes}) == len(scenes)


@pytest.mark.parametrize("count", range(1, MAX_GARMENTS + 1))
def test_requests_hold_the_asked_number_of_compatible_garments(count: int) -> None:
    for seed in range(80):
        scene = sample_scene(seed, count)
        asked = {g.category for g in scene.garments}
        assert len(scene.garments) == len(asked) == len(scene.shots) == count
        assert len(asked & {"pants", "skirts"}) <= 1
        assert "dresses" not in asked or not asked & {"tops", "pants", "skirts"}


@pytest.mark.parametrize("count", [0, 7, -1])
def test_an_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 6 garments"):
        sample_scene(0, count)


def test_a_request_of_six_has_no_dress_and_still_ends() -> None:
    from random import Random

    assert sorted(sample_categories(Random(3), 6))[0] == "bags"


def test_categories_patterns_colours_and_logos_all_occur_often(scenes: list[Scene]) -> None:
    garments = [g for s in scenes for g in s.garments]
    for field, values in (
        ("category", CATEGORIES),
        ("pattern", PATTERNS),
        ("colour", PALETTE),
        ("logo", LOGOS),
    ):
        seen = Counter(getattr(g, field) for g in garments)
        assert set(seen) == set(values)
        assert min(seen.values()) > 0.3 * len(garments) / len(values), (field, seen)


def test_the_target_wears_what_was_asked_and_keeps_the_rest(scenes: list[Scene]) -> None:
    for s in scenes:
        target = {w.spec.category: w for w in s.target}
        photo = {w.spec.category: w for w in s.worn}
        asked = {g.category for g in s.garments}
        assert all(target[g.category].spec == g for g in s.garments)
        assert all(w == photo[c] for c, w in target.items() if c not in asked)
        trunk = set(target) & {"tops", "pants", "skirts", "dresses"}
        assert trunk in ({"dresses"}, {"tops", "pants"}, {"tops", "skirts"})
        free = {"coats", "shoes", "bags", "hats"}
        assert set(target) & free == (set(photo) | asked) & free


def test_layer_words_say_what_the_target_shows(scenes: list[Scene]) -> None:
    words = {
        "coat_open": ("open", "closed"),
        "tucked": ("tucked in", "untucked"),
        "bag_in_front": ("in front", "behind"),
    }
    category = {"coat_open": "coats", "tucked": "tops", "bag_in_front": "bags"}
    said: Counter[tuple[str, str | None]] = Counter()
    for s in scenes:
        target = {w.spec.category: w for w in s.target}
        asked = {g.category: g for g in s.garments}
        for field, (yes, no) in words.items():
            name = category[field]
            specified = getattr(s.layering, f"{field}_specified")
            actual = getattr(target[name], field) if name in target else None
            assert getattr(s.layering, field) is actual
            if name in asked:
                expected = None if specified is None else (yes if actual else no)
                assert asked[name].layer_words == expected
                assert specified in (None, actual)
                said[name, expected] += 1
            else:
                assert specified is None
    assert all(said[category[f], w] > 10 for f, pair in words.items() for w in (*pair, None))


def test_what_the_words_leave_open_varies(scenes: list[Scene]) -> None:
    open_facts = Counter()
    for s in scenes:
        for g in s.garments:
            if g.layer_words is None and g.category in ("coats", "tops", "bags"):
                worn = next(w for w in s.target if w.spec.category == g.category)
                fact = {"coats": worn.coat_open, "tops": worn.tucked, "bags": worn.bag_in_front}[g.category]
                open_facts[g.category, fact] += 1
                if g.category == "bags":
                    open_facts["side", worn.bag_side] += 1
    keys = [(c, v) for c in ("coats", "tops", "bags") for v in (True, False)] + [
        ("side", 1.0),
        ("side", -1.0),
    ]
    assert all(open_facts[k] > 15 for k in keys), open_facts


def test_the_requested_colour_is_not_what_is_worn_already(scenes: list[Scene]) -> None:
    for s in scenes:
        photo = {w.spec.category: w.spec.colour for w in s.worn}
        assert all(photo.get(g.category) != g.colour for g in s.garments)


def test_descriptions_name_colour_and_pattern(scenes: list[Scene]) -> None:
    stems = {"stripes": "striped", "checks": "checked", "dots": "dotted", "print": "printed", "logo": "logo"}
    for s in scenes:
        for g in s.garments:
            assert g.colour in g.description
            assert stems.get(g.pattern, "") in g.description
            assert (g.colour2 in g.description) or g.pattern == "plain"
