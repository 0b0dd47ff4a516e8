"""Every measure rewards the truth and falls for the one thing it is there to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine_build.training.measure import classifier
from engine_build.training.measure.classifier import Classifier
from engine_build.training.measure.evaluate import held_out
from engine_build.training.measure.scores import (
    Scores,
    borders,
    edge_agreement,
    judged,
    layers,
    nearest,
    omitted,
    region_psnr,
    retrieved,
    scale,
    score,
)
from engine_build.training.measure.summary import by_category, by_count, summary
from engine_build.world import wrong_outfits
from engine_build.world.casting import hanging_sides
from engine_build.world.render import Rendered, head_region, render, unchanged_background
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import Scene
from engine_build.world.wrong_outfits import (
    CANDIDATES,
    WrongOutfits,
    admissible,
    allowed,
    draw,
    rewear,
    wrong_for,
)

SCENES = [sample_scene(HELD_OUT_SEED + i, count) for i, count in enumerate((1, 2, 3, 4, 6))]
ALLOWED = admissible(SCENES, 96)
TRUTHS = [some[0] for some in ALLOWED]
WRONG = wrong_for(TRUTHS)
PAIRS = list(zip(TRUTHS, WRONG, strict=True))
UNTRAINED = Classifier().eval()


def _scores(outputs: list[Tensor], judge: Classifier = UNTRAINED) -> list[Scores]:
    return [score(one, truth, wrong, judge) for one, (truth, wrong) in zip(outputs, PAIRS, strict=True)]


def _blurred(x: Tensor, side: int = 5) -> Tensor:
    return F.avg_pool2d(F.pad(x[None], (side // 2,) * 4, mode="replicate"), side, 1)[0]


def _painted(changes: dict[str, object]) -> list[Tensor]:
    """The targets with fields of every requested garment's spec changed."""
    outfits = []
    for scene in SCENES:
        outfit = scene.target
        for garment in scene.garments:
            outfit = rewear(outfit, garment.category, spec=replace(garment, **changes))
        outfits.append((scene, outfit))
    return list(draw(outfits, 96)[0])


def test_truth_scores_ten_of_ten() -> None:
    for sample in _scores([truth.target for truth in TRUTHS]):
        dimensions = (sample.identity, sample.garment_fidelity, sample.background, sample.physics)
        assert (*dimensions, sample.overall) == pytest.approx((10,) * 5)
        assert sample.sharpness == 1
        assert all(sample.retrieval) and all(sample.layering) and not any(sample.omitted)


def test_every_allowed_truth_is_as_good_as_the_sampled_one() -> None:
    assert max(len(some) for some in ALLOWED) > 2
    for some in ALLOWED:
        assert [nearest(truth.target, some) for truth in some] == list(range(len(some)))
        last = some[-1]
        [[sample]] = judged([[last.target]], [some], UNTRAINED)
        assert sample.overall == pytest.approx(10)


def test_copying_the_person_omits_every_garment() -> None:
    samples = _scores([truth.person for truth in TRUTHS])
    figures = summary(samples, None, 0)
    assert figures["omission_rate"] == 1
    assert figures["garment_fidelity"] == 1
    assert figures["layering_accuracy"] == 0
    assert figures["retrieval_at_16"] < 0.3
    assert figures["background"] > 9 and figures["identity"] > 9
    assert figures["physics"] < 8


def test_blur_costs_sharpness_and_fidelity_but_is_no_omission() -> None:
    for sample in _scores([_blurred(truth.target) for truth in TRUTHS]):
        assert sample.sharpness < 0.3
        assert sample.background < 8 and sample.identity < 7 and sample.physics < 8
    for sample in _scores([_blurred(truth.target, 3) for truth in TRUTHS]):
        assert sample.sharpness < 0.6 and sample.overall < 9
        assert not any(sample.omitted)


def test_noise_raises_sharpness_above_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = [t.target + 0.08 * torch.randn(t.target.shape, generator=generator) for t in TRUTHS]
    assert all(sample.sharpness > 1.3 for sample in _scores(noisy))


def test_each_missing_garment_is_found_missing() -> None:
    """The picture with nothing in the garment's place; the others, where nothing moved, are still there."""
    retrievals = []
    for truth, wrong in PAIRS:
        for category, bare in wrong.without.items():
            assert omitted(bare, truth, wrong, category), category
            retrievals.append(retrieved(bare, truth, wrong, category))
            for garment, mask in truth.shown():
                moved = (bare - truth.target).abs().amax(0)[mask].max() > 0
                if garment.category != category and not moved:
                    assert not omitted(bare, truth, wrong, garment.category)
    assert sum(retrievals) < 0.3 * len(retrievals)


def test_another_garment_is_not_retrieved_and_not_omitted() -> None:
    for truth, wrong in PAIRS:
        for category, (others, regions) in wrong.others.items():
            assert others.shape[0] == regions.shape[0] == CANDIDATES - 1
            assert retrieved(truth.target, truth, wrong, category)
            misses = [not retrieved(other, truth, wrong, category) for other in others]
            assert sum(misses) >= CANDIDATES - 2


def test_wrong_colours_lower_retrieval_and_fidelity_alone() -> None:
    colours = {g.colour for scene in SCENES for g in scene.garments}
    assert len(colours) > 3
    outputs = _painted({"colour": "teal", "colour2": "orange", "tint": (0.0, 0.0, 0.0)})
    figures = summary(_scores(outputs), None, 0)
    assert figures["retrieval_at_16"] < 0.6
    assert figures["garment_psnr"] < 20 and figures["garment_fidelity"] < 9
    assert figures["background"] > 9.5


def _layered_scenes(each: int = 3) -> list[Scene]:
    """Scenes of two garments whose instruction says a layer of a coat, a top or a bag."""
    names = ("coat_open_specified", "tucked_specified", "bag_in_front_specified")
    several = [sample_scene(HELD_OUT_SEED + 100 + i, 2) for i in range(200)]
    return [scene for name in names for scene in [s for s in several if getattr(s.layering, name) is not None][:each]]


def test_layers_the_wrong_way_round_score_nothing() -> None:
    seen = set()
    truths = [some[0] for some in admissible(_layered_scenes(), 96)]
    for truth, wrong in zip(truths, wrong_for(truths), strict=True):
        right = layers(truth.target, truth, wrong)
        assert all(right)
        if right:
            for category, flipped in wrong.opposite.items():
                only = WrongOutfits(wrong.others, wrong.without, {category: flipped})
                if layers(truth.target, truth, only):
                    assert layers(flipped, truth, only) == [False]
                    assert score(flipped, truth, only, UNTRAINED).physics < 8
                    seen.add(category)
    assert seen == {"coats", "tops", "bags"}


def test_a_face_of_somebody_else_lowers_identity_alone() -> None:
    for i, truth in enumerate(TRUTHS):
        stranger = TRUTHS[(i + 1) % len(TRUTHS)]
        head = head_region(truth.after)
        output = torch.where(head, stranger.target.roll(1, 2), truth.target)
        sample = score(output, truth, WRONG[i], UNTRAINED)
        assert sample.identity < 5
        assert sample.background == 10 and set(sample.garment_psnr) == {60.0}


def test_another_room_lowers_background_alone() -> None:
    for i, truth in enumerate(TRUTHS):
        still = unchanged_background(truth.before, truth.after)
        output = torch.where(still, TRUTHS[i - 1].target, truth.target)
        sample = score(output, truth, WRONG[i], UNTRAINED)
        assert sample.background < 6
        assert sample.identity == pytest.approx(10)
        assert set(sample.garment_psnr) == {60.0} and not any(sample.omitted)


def test_another_pose_lowers_physics() -> None:
    mirrored = [truth.target.flip(2) for truth in TRUTHS]
    assert all(sample.physics < 8 for sample in _scores(mirrored))


def test_drawing_many_outfits_at_once_is_drawing_each_alone() -> None:
    outfits = [(s, o) for s in SCENES[2:] for o in (s.target, s.worn, *allowed(s)[1:4])]
    pictures, maps = draw(outfits, 96)
    for (scene, outfit), drawn, regions in zip(outfits, pictures, maps, strict=True):
        alone = render([replace(scene, target=outfit)], 96)
        torch.testing.assert_close(drawn, alone.target[0], atol=1e-5, rtol=0)
        assert (regions != alone.target_regions[0]).sum() <= 2


def test_allowed_outfits_differ_only_where_nothing_was_said() -> None:
    for i in range(200):
        scene = sample_scene(HELD_OUT_SEED + 500 + i, 1 + i % 6)
        outfits = allowed(scene)
        assert outfits[0] == scene.target and 1 <= len(outfits) <= 16
        assert len(set(outfits)) == len(outfits)
        said = scene.layering
        for outfit in outfits:
            assert [w.spec for w in outfit] == [w.spec for w in scene.target]
            worn = {w.spec.category: w for w in outfit}
            if said.coat_open_specified is not None:
                assert worn["coats"].coat_open == said.coat_open_specified
            if said.tucked_specified is not None:
                assert worn["tops"].tucked == said.tucked_specified
            if said.bag_in_front_specified is not None:
                assert worn["bags"].bag_in_front == said.bag_in_front_specified
            if "bags" in worn:
                assert worn["bags"].bag_side in hanging_sides(scene.person)


def test_candidates_are_of_the_category_and_the_same_each_time() -> None:
    again = wrong_for(TRUTHS[2:3])[0]
    for category, (others, _) in again.others.items():
        assert torch.allclose(others, WRONG[2].others[category][0], atol=1e-5)
    assert set(again.others) == {g.category for g, _ in TRUTHS[2].shown()}


def test_wrong_outfits_of_one_truth_are_drawn_once_and_shared() -> None:
    rows = [[some[0].target, some[0].person, _blurred(some[0].target)] for some in ALLOWED[:2]]
    together = judged(rows, ALLOWED[:2], UNTRAINED)
    for row, some, samples in zip(rows, ALLOWED[:2], together, strict=True):
        for output, sample in zip(row, samples, strict=True):
            [[alone]] = judged([[output]], [some], UNTRAINED)
            assert alone.overall == pytest.approx(sample.overall, abs=1e-3)
            assert (alone.omitted, alone.retrieval) == (sample.omitted, sample.retrieval)


def test_nothing_to_judge_is_no_fault() -> None:
    scene: Scene = SCENES[0]
    truth = TRUTHS[0]
    hidden = replace(truth, after=torch.zeros_like(truth.after))
    assert hidden.shown() == []
    sample = score(truth.target, hidden, wrong_for([hidden])[0], UNTRAINED)
    assert sample.garment_psnr == [] and sample.garment_fidelity == 10
    assert scene.garments and wrong_for([]) == []


def test_small_measures() -> None:
    grey = torch.full((3, 4, 4), 0.5)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    assert region_psnr(grey, grey, mask) != region_psnr(grey, grey, mask)
    mask[0, 0] = True
    assert region_psnr(grey + 0.1, grey, mask) == pytest.approx(20, abs=1e-3)
    assert region_psnr(grey, grey, mask) == 60
    assert [scale(v, 10, 20) for v in (0, 10, 15, 20, 99, float("nan"))] == [1, 1, 5.5, 10, 10, 10]
    step = torch.zeros(3, 8, 8)
    step[:, :, 4:] = 1
    everywhere = torch.ones(8, 8, dtype=torch.bool)
    assert edge_agreement(step, step, everywhere) == pytest.approx(1)
    assert edge_agreement(1 - step, step, everywhere) == pytest.approx(-1)
    assert edge_agreement(step.transpose(1, 2), step, everywhere) == 0
    assert edge_agreement(grey, grey, mask) == 1
    assert edge_agreement(torch.zeros(3, 8, 8), step, everywhere) == 0
    found = borders(step[0].to(torch.uint8))
    assert found.any(0).tolist() == [False, False, True, True, True, True, False, False]


def test_summaries_count_garments_not_samples() -> None:
    samples = _scores([truth.person if i else truth.target for i, truth in enumerate(TRUTHS)])
    judged_garments = [len(sample.omitted) for sample in samples]
    figures = summary(samples, 0.5, 4)
    assert figures["omission_rate"] == pytest.approx(1 - judged_garments[0] / sum(judged_garments), abs=1e-3)
    assert (figures["seconds_per_image"], figures["nfe"]) == (0.5, 4)
    assert sum(row["garments"] for row in by_category(samples).values()) == sum(judged_garments)
    counts = by_count(samples, SCENES)
    assert counts["1"]["omission_rate"] == 0 and counts["6"]["omission_rate"] == 1
    assert [len(s.garments) for s in held_out(7, None)] == [1, 2, 3, 4, 5, 6, 1]
    assert [len(s.garments) for s in held_out(3, 3)] == [3, 3, 3]
    assert min(s.seed for s in held_out(3, 3)) >= HELD_OUT_SEED


def test_the_judge_reads_truths_and_sees_wrong_colours_and_omissions() -> None:
    judge = classifier.load()

    def read(outputs: list[Tensor]) -> float:
        return float(summary(_scores(outputs, judge), None, 0)["attribute_accuracy"])

    truth = read([t.target for t in TRUTHS])
    assert truth > 0.8
    assert read(_painted({"colour": "teal"})) < truth - 0.15
    assert read([t.person for t in TRUTHS]) < 0.7 * truth
    assert read([torch.full_like(t.target, 0.5) for t in TRUTHS]) < 0.5 * truth


def test_scoring_three_garments_draws_each_outfit_once_and_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are scored at every step of training; nearly all of what that costs is drawing."""
    drawn: list[int] = []

    def counted(scenes: list[Scene], *sizes: int) -> Rendered:
        drawn.append(len(scenes))
        return render(scenes, *sizes)

    monkeypatch.setattr(wrong_outfits, "render", counted)
    scenes = held_out(8, 3)
    truths = admissible(scenes, 96)
    photos, wrong = sum(1 + len(some) for some in truths), 8 * 3 * ((CANDIDATES - 1) + 1 + 1)
    judged([[some[0].target] for some in truths], truths, UNTRAINED)
    assert sum(drawn) <= (photos + wrong) / 2 + 2 * len(scenes)
