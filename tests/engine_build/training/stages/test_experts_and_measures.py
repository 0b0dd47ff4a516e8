"""Experts' masks, measures by hand, the watch over rewards, trainable LoRA weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_pairs import person, write_dresscode, write_viton_hd

from engine_build.config import ModelConfig
from engine_build.errors import RequestError
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.regions.world import WorldRegions
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import Options, edit_support
from engine_build.support.regions import RegionMap
from engine_build.training.data.build import BuildPlan, build
from engine_build.training.data.candidate_entry import Rules
from engine_build.training.data.entry import ShardError
from engine_build.training.data.origins import Folder, World
from engine_build.training.data.reading import Shards
from engine_build.training.data.source import ShardSource
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.evidence.comparisons import standard_error
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner, StageConfig
from engine_build.training.measure.measures import Way, diversity, kid
from engine_build.training.stages.experts import DRESSED, GREY, ExpertConfig, ExpertShards, ExpertTryOns, dressed
from engine_build.training.stages.reward_watch import Watch
from engine_build.world.parts import region_map
from engine_build.world.render import garment_region, render
from engine_build.world.sample_files import picture

SHAPE = ModelConfig(
    num_layers=1,
    num_single_layers=1,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=8,
    joint_attention_dim=12,
    axes_dims_rope=(4, 4, 4, 4),
    reference_attention="isolated",
)


def _dit() -> MMDiT:
    torch.manual_seed(0)
    model = MMDiT(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    return model


@pytest.mark.parametrize("shape", ["tight", "box"])
@pytest.mark.parametrize("domain", list(DRESSED))
def test_an_expert_sees_grey_where_it_paints_and_the_truth_is_the_photo_elsewhere(domain: str, shape: str) -> None:
    config = ExpertConfig(domain=domain, shape=shape, regions="truth", height=64, shot=32)
    for sample in ExpertTryOns(config).draw([0, 1]):
        scene = sample.scene
        drawn = render([scene], 64, 32, parts=True)
        regions = region_map(drawn.person_parts[0])
        support = torch.from_numpy(edit_support(regions, DOMAINS[domain], Options(shape), size=(48, 64)))
        photo = drawn.person[0]
        assert (sample.references[0][:, support] == GREY).all()
        assert torch.equal(sample.references[0][:, ~support], photo[:, ~support])
        assert torch.equal(sample.target[:, ~support], photo[:, ~support])
        assert torch.equal(sample.edited.bool(), support)
        (garment,) = scene.garments
        assert garment.category in DOMAINS[domain].categories
        shown = garment_region(drawn.target_regions[0], garment.category)
        assert (shown & support).sum() >= 0.9 * shown.sum()
        assert not (support & torch.from_numpy(regions.mask(DOMAINS[domain].keeps))).any()


@pytest.mark.parametrize("domain", list(DRESSED))
def test_an_expert_is_shown_no_other_garment(domain: str) -> None:
    """A scene in a hundred or so had none of the domain after 64 seeds, and was drawn all the same."""
    categories = DOMAINS[domain].categories
    source = WorldTryOns(64, 32, mix=(1.0,), categories=categories)
    assert {g.category for number in range(300) for g in source.scene(number).garments} <= set(categories)


def test_an_expert_is_trained_with_the_parsers_mask_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it infers; a photo on which the parser finds nothing of the domain is passed over."""
    source = ExpertTryOns(ExpertConfig(domain="shoes", height=64, shot=32))
    for number, sample in zip((3, 4), source.draw([3, 4]), strict=True):
        photo = render([source.source.scene(number)], 64, 8).person[0]
        seen = edit_support(WorldRegions()(picture(photo)), DOMAINS["shoes"], size=(48, 64))
        assert np.array_equal(sample.edited.bool().numpy(), seen)
    parser, calls = source.parser, []

    def blind_at_first(photo: Image.Image) -> RegionMap:
        calls.append(photo)
        return RegionMap(np.zeros((64, 48), np.uint8)) if len(calls) == 1 else parser(photo)

    monkeypatch.setitem(source.__dict__, "parser", blind_at_first)
    (sample,) = source.draw([3])
    assert len(calls) == 2 and sample.scene != source.source.scene(3) and sample.edited.any()


def test_the_mask_depends_on_the_photo_alone() -> None:
    scene = WorldTryOns(64, 32, mix=(1.0,), categories=("tops",)).scene(0)
    other = replace(scene, target=scene.worn)
    parts = [render([s], 64, 32, parts=True).person_parts[0] for s in (scene, other)]
    masks = [edit_support(region_map(p), DOMAINS["top"], size=(48, 64)) for p in parts]
    assert np.array_equal(*masks)
    whole = ExpertTryOns(ExpertConfig(domain="top", automask=False, height=64, shot=32)).draw([0])[0]
    assert torch.equal(whole.references[0], render([whole.scene], 64, 32).person[0])


def test_an_expert_of_shards_sees_its_domain_alone_grey_where_it_paints(tmp_path: Path) -> None:
    """Both kinds: another photo of the person, and the truth with the garment greyed, whose truth is then masked."""
    source = write_dresscode(tmp_path / "dresscode")
    people = tmp_path / "people"
    for path in source.glob("*/images/*_0.jpg"):
        (people / path.parts[-3]).mkdir(parents=True, exist_ok=True)
        person(int(path.stem[:6]) + 50, "yellow").save(people / path.parts[-3] / path.name)
    for name, given in (("pairs", people), ("alone", None)):
        build(Folder(source, people=given, rules=Rules(64, 64)), tmp_path / name, BuildPlan())
        shards = Shards(str(tmp_path / name), shuffled=False)
        plain = {sample.categories[1]: sample for sample in ShardSource(shards, 64, 32).draw(range(4))}
        config = ExpertConfig(domain="bottom", shape="box")
        drawn = ExpertShards(shards, 64, 32, expert=config).draw(range(6))
        assert {sample.categories for sample in drawn} <= {("person", "pants"), ("person", "skirts")}
        for sample in drawn:
            whole = plain[sample.categories[1]]
            photo = whole.references[0] if given else whole.target
            support = sample.edited > 0.5
            assert support.any() and torch.equal(support, whole.edited > 0.5), "the build's own function"
            assert (sample.references[0][:, support] == GREY).all()
            assert torch.equal(sample.references[0][:, ~support], photo[:, ~support])
            assert torch.equal(sample.target[:, support], whole.target[:, support])
            assert torch.equal(sample.target[:, ~support], photo[:, ~support])
        open_eyed = ExpertShards(shards, 64, 32, expert=replace(config, automask=False)).draw([0])[0]
        assert not (open_eyed.references[0] == GREY).all(0).any()
    with pytest.raises(ShardError, match="hold no bags"):
        ExpertShards(shards, 64, 32, expert=ExpertConfig(domain="bag")).draw([0])


def test_an_expert_of_shards_needs_their_regions(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 2, agnostic=True)
    for parse in source.glob("train/image-parse-v3/*"):
        parse.unlink()
    build(Folder(source, rules=Rules(64, 64)), tmp_path / "out", BuildPlan())
    with pytest.raises(ShardError, match="no regions of the photo"):
        ExpertShards(Shards(str(tmp_path / "out")), 64, 32, expert=ExpertConfig(domain="top")).draw([0])


def test_an_expert_of_the_worlds_shards_has_the_support_of_the_world_itself(tmp_path: Path) -> None:
    build(World("try-ons", 24, 0, 64, 32, (1.0,)), tmp_path / "out", BuildPlan())
    shards = Shards(str(tmp_path / "out"), shuffled=False)
    sample = ExpertShards(shards, 64, 32, expert=ExpertConfig(domain="bottom")).draw([0])[0]
    place = next(i for i in range(24) if shards.entry(i).references[0].category in ("pants", "skirts"))
    scene = WorldTryOns(64, 32, (1.0,)).scene(place)
    parts = render([scene], 64, 32, parts=True).person_parts[0]
    expected = torch.from_numpy(edit_support(region_map(parts), DOMAINS["bottom"], size=(48, 64)))
    assert torch.equal(sample.edited > 0.5, expected)


@pytest.mark.parametrize(
    ("domain", "said"), [("eye", "pictures of eyewear"), ("socks", "no domain"), ("bg", "background")]
)
def test_domains_that_nothing_shows_are_refused(domain: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        dressed(ExpertConfig(domain=domain))
    with pytest.raises(RequestError, match="tight or box"):
        dressed(ExpertConfig(shape="round"))
    with pytest.raises(RequestError, match="parser, or truth"):
        dressed(ExpertConfig(regions="guess"))


def test_kid_by_hand_and_its_order() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    x, y = a.numpy().astype(float), b.numpy().astype(float)
    scale = y.std(ddof=1)
    k = lambda p, q: (p @ q / 3 / scale**2 + 1) ** 3  # noqa: E731
    own_x = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    own_y = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    cross = np.mean([k(p, q) for p in x for q in y])
    assert kid(a, b) == pytest.approx(own_x + own_y - 2 * cross, abs=1e-6)
    real, near, far = (torch.randn(400, 8, generator=generator) + shift for shift in (0, 0, 1))
    assert abs(kid(near, real)) < 0.1 < kid(far, real)
    assert kid(a[:1], b) is None


def test_diversity_is_the_distance_inside_the_edit() -> None:
    pictures = torch.zeros(1, 2, 3, 8, 8)
    pictures[0, 1, :, :4] = 0.5
    pictures[0, 1, :, 4:] = 9.0
    assert diversity(pictures, [torch.tensor([1.0, 0.0])], (2, 1)) == pytest.approx(0.5)
    assert diversity(pictures, [torch.zeros(2)], (2, 1)) is None


def test_evaluations_are_counted_with_both_passes_of_guidance() -> None:
    assert (Way(32).nfe, Way(32, 2.0).nfe, Way(4).nfe) == (32, 64, 4)
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(standard_error([1.0]))


def test_a_reward_bought_with_another_is_warned_of() -> None:
    watch = Watch(("identity", "physics"), window=5)
    told = [watch.update((5.0, 5.0)) for _ in range(5)]
    told += [watch.update((6.0, 5.0)) for _ in range(20)]
    assert not any(told)
    state = watch.state_dict()
    first = [watch.update((6.0, 4.0)) for _ in range(15)]
    assert any(first) and "identity +1.00" in first[-1] and "physics -" in first[-1]
    again = Watch(("identity", "physics"), window=5)
    again.load_state_dict(state)
    assert again.update((6.0, math.nan)) is None and again.seen == 25
    assert [again.update((6.0, 4.0)) for _ in range(15)] == first


def test_lora_weights_alone_train_and_the_written_file_changes_the_model_as_training_did(tmp_path: Path) -> None:
    dit = _dit()
    plain = {name: value.clone() for name, value in dit.state_dict().items()}
    adapters.attach(dit, rank=2, alpha=4.0)
    weights = adapters.LoraWeights(dit)
    assert all(p.requires_grad for p in weights.parameters())
    assert not any(p.requires_grad for p in dit.parameters())
    learner = Learner(weights, StageConfig(optimizer="adamw", learning_rate=0.1, warm_up=1))
    x = torch.randn(5, SHAPE.width, generator=torch.Generator().manual_seed(0))
    linear = dit.single_transformer_blocks[0].attn.to_out
    wide = torch.randn(5, linear.in_features, generator=torch.Generator().manual_seed(1))
    for step in range(3):
        learner.descend(linear(wide).square().mean(), step)
    assert all(torch.equal(plain[name], value) for name, value in dit.state_dict().items())
    path = adapters.write(tmp_path / "x.safetensors", weights)
    fresh = _dit()
    LoraSet(fresh).add("x", read_lora(path))
    torch.testing.assert_close(fresh.single_transformer_blocks[0].attn.to_out(wide), linear(wide))
    merged = _dit()
    adapters.merge_files(merged, [path])
    torch.testing.assert_close(merged.single_transformer_blocks[0].attn.to_out(wide), linear(wide))
    assert [type(m) for m in merged.modules()] == [type(m) for m in _dit().modules()]
    assert x.shape == (5, SHAPE.width)


def test_twins_share_what_is_frozen_and_blend_what_is_not() -> None:
    dit = _dit()
    adapters.attach(dit, rank=2, alpha=4.0)
    copied = adapters.twin(dit)
    assert copied.x_embedder.weight is dit.x_embedder.weight
    ours, theirs = adapters.tensors_of(dit), adapters.tensors_of(copied)
    assert ours.keys() == theirs.keys() and all(ours[n] is not theirs[n] for n in ours)
    assert not any(t.requires_grad for t in theirs.values())
    with torch.no_grad():
        for tensor in ours.values():
            tensor.fill_(1.0)
        for tensor in theirs.values():
            tensor.zero_()
    adapters.blend(copied, dit, 0.75)
    assert all(torch.allclose(t, torch.tensor(0.25)) for t in theirs.values())
    whole = _dit()
    whole_copy = adapters.twin(whole)
    assert whole_copy.x_embedder.weight is not whole.x_embedder.weight
    assert not any(p.requires_grad for p in whole_copy.parameters())


def test_impossible_loras_are_refused() -> None:
    with pytest.raises(RequestError, match="rank of at least 1"):
        adapters.attach(_dit(), rank=0, alpha=1.0)
    with pytest.raises(RequestError, match="nowhere"):
        adapters.attach(_dit(), rank=1, alpha=1.0, layers=("nowhere",))
