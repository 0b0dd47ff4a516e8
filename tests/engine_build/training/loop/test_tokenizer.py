"""nano's tokenizer: short for the grammar, faithful to anything else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_build.instruction import CATEGORIES, GarmentPhrase, compose
from engine_build.training.loop import tokenizer
from engine_build.world.instructions import instruction_of, with_aside
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene

WORDS = tokenizer.train(samples=400)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert WORDS.decode(WORDS(text)["input_ids"]) == text


@pytest.mark.parametrize("text", ["🙏🏽 夏らしく", "  two  spaces \n", "naïve — “quotes”", "image 12 of image 3", ""])
def test_awkward_text_comes_back(text: str) -> None:
    assert WORDS.decode(WORDS(text)["input_ids"]) == text


@pytest.mark.parametrize("count", range(1, 7))
def test_instructions_are_short(count: int) -> None:
    told = [instruction_of(sample_scene(HELD_OUT_SEED + i, count)) for i in range(20)]
    assert max(len(WORDS(one)["input_ids"]) for one in told) <= 6 + 5 * count


def test_each_garment_of_each_image_is_told_apart() -> None:
    seen = set()
    for category in CATEGORIES:
        for position in range(1, 7):
            phrases = [GarmentPhrase("hats")] * (position - 1) + [GarmentPhrase(category)]
            ids = WORDS(compose(phrases))["input_ids"]
            assert WORDS.decode(ids) == compose(phrases)
            seen.add(tuple(ids))
    assert len(seen) == len(CATEGORIES) * 6


def test_training_is_deterministic() -> None:
    again = tokenizer.train(samples=400)
    assert again.get_vocab() == WORDS.get_vocab()
    told = instruction_of(sample_scene(3, 6))
    assert again(told)["input_ids"] == WORDS(told)["input_ids"]


def test_padding_is_on_the_right_and_its_own_token() -> None:
    ids = WORDS(["a coat", "a coat and a hat"], padding=True)["input_ids"]
    assert len(ids[0]) == len(ids[1])
    assert ids[0][-1] == WORDS.pad_token_id
    assert WORDS.pad_token_id not in ids[1]


def test_one_remark_in_ten_and_never_in_the_way() -> None:
    scene, rng = sample_scene(5, 2), Random(0)
    told = [with_aside(scene, rng) for _ in range(1000)]
    plain = instruction_of(scene)
    assert all(one.startswith(plain) for one in told)
    assert 60 < sum(one != plain for one in told) < 140
