"""General edits: the truth changes where the instruction says and nowhere else, and the words match what is done."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from engine_build.training.data.sample import PERSON
from engine_build.training.data.world_edits import TASKS, Edits, edit_of, move
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.world.render import render
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import BACKGROUND, CATEGORIES, REGION_OF

COUNT = 2 * len(TASKS)


@pytest.fixture(scope="module")
def samples():
    return Edits(64, 32).draw(range(COUNT))


def _outfits(number: int):
    edit = edit_of(number)
    before, after = ({w.spec.category: w for w in outfit} for _, outfit in (edit.before, edit.after))
    return edit, before, after


def test_tasks_take_turns_and_repeat_exactly(samples) -> None:
    edits = [edit_of(n) for n in range(COUNT)]
    assert [e.task for e in edits] == 2 * list(TASKS)
    assert edits == [edit_of(n) for n in range(COUNT)]
    again = Edits(64, 32).draw([3, 5])
    for one, other in zip(again, (samples[3], samples[5]), strict=True):
        assert torch.equal(one.target, other.target) and one.instruction == other.instruction


@pytest.mark.parametrize("number", range(COUNT))
def test_the_truth_is_the_edit_and_only_the_edit(number: int, samples) -> None:
    edit, before, after = _outfits(number)
    sample = samples[number]
    same_place = edit.before[0].person == edit.after[0].person and edit.before[0].backdrop == edit.after[0].backdrop
    changed = {c for c in before.keys() | after.keys() if before.get(c) != after.get(c)}
    if edit.task == "recolour":
        (category,) = changed
        old, new = before[category].spec, after[category].spec
        assert replace(old, colour=new.colour) == new and old.colour != new.colour
        assert f" to {new.colour}." in sample.instruction
    elif edit.task == "remove":
        (category,) = changed
        assert category in before and category not in after
    elif edit.task == "add":
        (category,) = changed
        assert category not in before and after[category].spec.description in sample.instruction
    elif edit.task == "move":
        assert ("bag" in sample.instruction) == (changed == {"bags"})
    elif edit.task in ("copy", "outfit"):
        assert changed == set(edit.categories) and len(sample.references) == 1 + len(edit.categories)
        for i, category in enumerate(edit.categories):
            assert f"image {2 + i}" in sample.instruction
            given = {s.category: s for s, _ in edit.shots} | {
                w.spec.category: w.spec for _, theirs in edit.pictures for w in theirs if w.spec.category == category
            }
            assert after[category].spec == given[category]
    else:
        assert edit.task == "restyle" and not changed
        assert edit.after[0].backdrop == edit.pictures[0][0].backdrop != edit.before[0].backdrop
    if same_place:
        drawn = render([replace(edit.before[0], worn=edit.before[1], target=edit.after[1])], 64, 16)
        torch.testing.assert_close(sample.references[0], drawn.person[0])
        torch.testing.assert_close(sample.target, drawn.target[0])
        untouched = drawn.person_regions[0] == drawn.target_regions[0]
        names = torch.tensor([REGION_OF[c] for c in changed], dtype=torch.uint8)
        untouched &= ~torch.isin(drawn.target_regions[0], names) & (drawn.target_regions[0] == BACKGROUND)
        inner = -torch.nn.functional.max_pool2d(-untouched[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert torch.equal(sample.target[:, inner], sample.references[0][:, inner])


def test_the_edited_map_is_where_pictures_differ(samples) -> None:
    for sample in samples:
        differ = (sample.target - sample.references[0]).abs().amax(0) > 0.02
        assert torch.equal(sample.edited.bool(), differ)
        assert sample.categories[0] == PERSON and len(sample.categories) == len(sample.references)


def test_a_bag_moves_to_the_other_side_and_a_person_aside() -> None:
    moved = [move(sample_scene(n), random.Random(n)) for n in range(40)]
    sides = [
        ({w.spec.category: w for w in e.before[1]}["bags"].bag_side, {w.spec.category: w for w in e.after[1]}["bags"])
        for e in moved
        if "bag" in e.instruction
    ]
    assert sides and all(before == -after.bag_side for before, after in sides)
    shifts = [e for e in moved if "person" in e.instruction]
    for edit in shifts:
        shift = edit.after[0].person.cx - edit.before[0].person.cx
        assert abs(shift) >= 0.05 and ("left" in edit.instruction) == (shift < 0)


def test_try_ons_are_balanced_by_category_and_number() -> None:
    source = WorldTryOns(mix=(1.0, 1.0, 1.0))
    scenes = [source.scene(n) for n in range(96)]
    for i, scene in enumerate(scenes):
        assert CATEGORIES[i % 8] in {g.category for g in scene.garments}
    counts = [sum(len(s.garments) == k for s in scenes) for k in (1, 2, 3)]
    assert min(counts) > 16
    assert all(scene.seed < HELD_OUT_SEED for scene in scenes)


def test_rare_patterns_are_rare() -> None:
    source = WorldTryOns(mix=(1.0,), rare=("logo",), rare_one_in=10)
    shown = [any(g.pattern == "logo" for g in source.scene(n).garments) for n in range(400)]
    plain = [any(g.pattern == "logo" for g in WorldTryOns(mix=(1.0,)).scene(n).garments) for n in range(400)]
    assert 0 < sum(shown) < sum(plain) / 4
