"""The whole recipe at its smallest: every stage runs, starts from the one before, resumes exactly, leaves its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe import write_config

from engine_build.backends import load_engine
from engine_build.config import CheckpointConfig
from engine_build.engine import ImageInput
from engine_build.errors import RequestError
from engine_build.model.packing import PackedBatch
from engine_build.regions.world import WorldRegions
from engine_build.runtime.loading import load_model
from engine_build.support.composite import check_untouched, composite
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import Options, check_digest, edit_support
from engine_build.support.original import Original
from engine_build.support.window import Window
from engine_build.training.config import TrainConfig
from engine_build.training.data.packed_batch import noised
from engine_build.training.data.sample import encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.learner import Learner
from engine_build.training.loop.run import Run
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.evaluate import requests_of
from engine_build.training.stages import stage_run as stage_runs
from engine_build.training.stages.experts import masked
from engine_build.training.stages.merging import MergeConfig
from engine_build.training.stages.stage_run import StageRun
from engine_build.training.train import Asked, main, run_stage
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene

CHAIN = ("pretrain", "resolution", "tryon", "isolate", "nft", "cfg-distill", "dmd")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The chain of stages, each run once without interruption."""
    config = TrainConfig.load(write_config(tmp_path_factory.mktemp("recipe")))
    for stage in CHAIN:
        left = run_stage(config, stage, resume=False)
        assert (left / "changeroom.json").exists()
    return config


def _state(config: TrainConfig, stage: str) -> dict[str, Any]:
    state = Run(config.out, stage).load()
    assert state is not None
    return state


def _losses(config: TrainConfig, stage: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (config.out / f"{stage}.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.mark.parametrize("stage", [*CHAIN, "expert"])
def test_an_interrupted_stage_ends_where_the_whole_one_ended(recipe: TrainConfig, stage: str) -> None:
    """Interrupted after its first step by everything but luck: other random numbers have been drawn meanwhile."""
    parts, table = f"{stage}-parts", replace(recipe.stage(stage), **_without_report(recipe, stage))
    if stage not in CHAIN:
        run_stage(recipe, stage, resume=False, table=table)
    run_stage(recipe, stage, resume=False, stop_after=1, name=parts, table=table)
    assert _state(recipe, parts)["step"] == 1
    torch.rand(7)
    run_stage(recipe, stage, resume=True, name=parts, table=table)
    whole, resumed = _state(recipe, stage), _state(recipe, parts)
    assert whole["step"] == resumed["step"] == 3
    for part in whole.keys() - {"rng", "step"}:
        assert _same(whole[part], resumed[part]), part
    assert _losses(recipe, stage) == _losses(recipe, parts)
    first = Run(recipe.out, recipe.stage(stage).start_from).load() if recipe.stage(stage).start_from else None
    if first is not None:
        assert not _same(first["ema"]["values"], whole["model"])


def _without_report(recipe: TrainConfig, stage: str) -> dict[str, int]:
    return {"report_samples": 0} if stage == "isolate" else {}


def test_each_checkpoint_runs_in_the_engine_in_its_own_mode(recipe: TrainConfig) -> None:
    for stage, mode in (("tryon", "joint"), ("isolate", "isolated"), ("dmd", "isolated")):
        folder = recipe.out / stage / "checkpoint"
        assert CheckpointConfig.load(folder).reference_attention == mode
    engine = load_engine(str(recipe.out / "dmd" / "checkpoint"), device="cpu")
    (outcome,) = engine.run(requests_of([sample_scene(HELD_OUT_SEED + 5, 2)], 64, 2, (48, 64)))
    assert outcome.error is None and outcome.image is not None and outcome.image.size == (48, 64)


def test_without_a_critic_nothing_of_it_is_kept_or_logged(recipe: TrainConfig) -> None:
    assert all(key.startswith("dit.") for key in _state(recipe, "dmd")["fake"]["model"])
    rows = [json.loads(line) for line in (recipe.out / "dmd.jsonl").read_text().splitlines()]
    assert all({"loss", "fake_loss", "strength"} == row.keys() - {"step", "seconds"} for row in rows)


def test_logs_tell_every_dimension_and_category(recipe: TrainConfig) -> None:
    rewards = [json.loads(line) for line in (recipe.out / "nft.jsonl").read_text().splitlines()]
    assert {"reward", "identity", "garment_fidelity", "background", "physics", "spread"} <= set(rewards[0])
    assert all(1 <= row["reward"] <= 10 for row in rewards)
    tryon = [json.loads(line) for line in (recipe.out / "tryon.jsonl").read_text().splitlines()]
    assert sum(name.startswith("held_out_") for name in tryon[0]) == 8
    assert not any(name.startswith("held_out_") for name in tryon[1])
    report = json.loads((recipe.out / "isolate" / "isolation.json").read_text())
    assert set(report["quality"]) == {"joint", "isolated, not tuned", "isolated"}
    assert set(report["milliseconds_a_step"]["isolated"]) > set(report["milliseconds_a_step"]["joint"])


def test_frozen_words_stay_frozen_and_free_ones_learn(recipe: TrainConfig) -> None:
    def text(stage: str) -> dict[str, torch.Tensor]:
        return {k: v for k, v in _state(recipe, stage)["model"].items() if k.startswith("text.")}

    start = {k: v for k, v in _state(recipe, "isolate")["ema"]["values"].items() if k.startswith("text.")}
    for stage in ("nft", "cfg-distill", "dmd"):
        assert _same(text(stage), start), stage
    assert not _same(text("pretrain"), text("tryon"))


@pytest.mark.parametrize("stage", ["expert", "nft", "cfg-distill", "dmd"])
def test_a_lora_stage_trains_its_paths_alone_and_leaves_the_network_it_trained(
    recipe: TrainConfig, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the paths moves, and the engine with the written file is the network as training left it."""
    trained: list[NetworkParts] = []

    def leave(stage_run: StageRun, parts: NetworkParts, learner: Learner) -> Path:
        learner.module.load_state_dict(learner.ema.values)
        trained.append(parts)
        return left(stage_run, parts, learner)

    left = stage_runs._leave
    monkeypatch.setattr(stage_runs, "_leave", leave)
    name = f"{stage}-lora"
    table = replace(recipe.stage(stage), lora_rank=2, optimizer="adamw", learning_rate=1e-2, start_from="isolate")
    path = run_stage(recipe, stage, resume=False, name=name, table=table)
    weights = _state(recipe, name)["model"]
    assert all(key.endswith(("lora_A", "lora_B")) for key in weights)
    start = _state(recipe, "isolate")["ema"]["values"]
    live = {k: v for k, v in trained[-1].network.state_dict().items() if not k.endswith(("lora_A", "lora_B"))}
    assert _same(live, start)
    base = str(recipe.out / "isolate" / "checkpoint")
    engine, plain = (load_engine(base, device="cpu", loras=loras).pipeline.model for loras in (((path, 1.0),), ()))
    batch = _noisy_batch(recipe, trained[-1])
    with torch.no_grad():
        expected, velocity, without = (network(batch) for network in (trained[-1].dit, engine, plain))
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    assert float((velocity - without).abs().max()) > 1e-4


def test_an_expert_repaints_its_domain_and_no_other_pixel(recipe: TrainConfig) -> None:
    """Inference as training had it: the photo masked by the same function, the file in the engine, pixels put back."""
    table = replace(recipe.stage("expert"), start_from="isolate", steps=1, domain="top")
    path = run_stage(recipe, "expert", resume=False, name="expert-served", table=table)
    scene = WorldTryOns(64, 32, (1.0,), categories=("tops",)).scene(HELD_OUT_SEED // 64 + 3)
    drawn = render([scene], 64, 32)
    found = edit_support(WorldRegions()(picture(drawn.person[0])), DOMAINS["top"], size=(48, 64))
    support = torch.from_numpy(found)
    said = json.loads((path.parent / "expert.json").read_text())
    check_digest(said["support"], DOMAINS[said["domain"]], Options(said["shape"]))
    engine = load_engine(str(recipe.out / "isolate" / "checkpoint"), device="cpu", loras=((path, 1.0),))
    (request,) = requests_of([scene], 64, 2, (48, 64))
    shown = ImageInput(picture(masked(drawn.person[0], support)), "masked")
    (outcome,) = engine.run([replace(request, person=shown)])
    assert outcome.image is not None
    photo, result = np.asarray(picture(drawn.person[0])), np.asarray(outcome.image)
    final = composite(Original(photo), outcome.image, Window((0, 0, 48, 64), (48, 64)), found)
    check_untouched(photo, final, found)
    assert not np.array_equal(result[~found], photo[~found])
    assert not np.array_equal(final[found], photo[found])


def _noisy_batch(recipe: TrainConfig, parts: NetworkParts) -> PackedBatch:
    samples = encode(parts.encoder, WorldTryOns(64, 32, (1.0, 1.0)).draw(range(2)))
    with torch.no_grad():
        batch = conditioned(parts, samples)
    eps = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    return noised(batch, batch.target, eps, torch.tensor([0.3, 0.8]))


def test_a_checkpoint_folder_can_be_started_from(recipe: TrainConfig) -> None:
    """As a user's klein folder would be: frozen text encoder, its own autoencoder, schedule and tokenizer."""
    table = replace(recipe.stage("cfg-distill"), start_from=str(recipe.out / "isolate" / "checkpoint"), steps=1)
    folder = run_stage(recipe, "cfg-distill", resume=False, name="from-folder", table=table)
    assert CheckpointConfig.load(folder).reference_attention == "isolated"
    load_engine(str(folder), device="cpu")
    after = replace(table, start_from="from-folder")
    assert run_stage(recipe, "cfg-distill", resume=False, name="after-folder", table=after).exists()
    wrong = replace(recipe.stage("tryon"), start_from=table.start_from)
    with pytest.raises(RequestError, match="stays frozen"):
        run_stage(recipe, "tryon", resume=False, name="wrong", table=wrong)


def test_merged_weights_lie_between_the_stages_merged(recipe: TrainConfig) -> None:
    table = MergeConfig(start_from="isolate", of=("nft", "cfg-distill"), share=0.5, height=32, shot=16)
    assert (run_stage(recipe, "merge", resume=False, table=table) / "model_index.json").exists()
    left = load_model(recipe.out / "merge" / "checkpoint").state_dict()
    start, *others = (_state(recipe, name)["ema"]["values"] for name in ("isolate", "nft", "cfg-distill"))
    for name, value in left.items():
        mean = (others[0][f"dit.{name}"] + others[1][f"dit.{name}"]) / 2
        torch.testing.assert_close(value, (start[f"dit.{name}"] + mean) / 2)


@pytest.mark.parametrize("stage", ["isolate", "nft", "dmd"])
def test_bf16_and_checkpointing_train(recipe: TrainConfig, stage: str) -> None:
    plain = replace(recipe.stage(stage), **_without_report(recipe, stage), steps=1)
    tables = {"plain": plain, "recomputed": replace(plain, checkpointing=True), "half": replace(plain, bf16=True)}
    for name, table in tables.items():
        run_stage(recipe, stage, resume=False, name=f"{stage}-{name}", table=table)
    whole, again, half = (_losses(recipe, f"{stage}-{name}")[0] for name in tables)
    models = [_state(recipe, f"{stage}-{name}")["model"] for name in tables]
    assert again == whole and _same(models[0], models[1]) and not _same(models[0], models[2])
    assert half == pytest.approx(whole, rel=8 * 2**-8, abs=2e-5), "some roundings of bfloat16, two of a logged loss"


def test_what_is_missing_is_named(recipe: TrainConfig, tmp_path: Path) -> None:
    absent = replace(recipe.stage("tryon"), start_from="nowhere.pt")
    with pytest.raises(RequestError, match=r"no nowhere\.pt; train that stage first"):
        run_stage(recipe, "tryon", resume=False, name="x", table=absent)
    with pytest.raises(RequestError, match="cannot go on with isolated"):
        run_stage(recipe, "isolate", resume=True, name="tryon", table=recipe.stage("isolate"))
    with pytest.raises(RequestError, match="optimizer 'sgd'"):
        run_stage(recipe, "tryon", resume=False, name="x", table=replace(recipe.stage("tryon"), optimizer="sgd"))
    with pytest.raises(RequestError, match="no domain 'wigs'"):
        run_stage(recipe, "expert", resume=False, table=replace(recipe.stage("expert"), domain="wigs"))
    with pytest.raises(RequestError, match="does not divide into batches"):
        run_stage(recipe, "tryon", resume=False, name="x", table=replace(recipe.stage("tryon"), chunk=5))
    with pytest.raises(RequestError, match="pass --resume"):
        main("pretrain", recipe.out.parent / "recipe.toml", Asked())


def test_tensorboard_logs_are_written(recipe: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    table = replace(recipe.stage("cfg-distill"), steps=1)
    run_stage(replace(recipe, tensorboard=True), "cfg-distill", resume=False, name="board", table=table)
    assert list((recipe.out / "tensorboard" / "board").glob("events.*"))


def test_packing_reports_both_rates(recipe: TrainConfig) -> None:
    report = json.loads(run_stage(recipe, "packing", resume=False).read_text())
    assert report["tokens"]["padded"] > report["tokens"]["packed"]
    assert min(report["samples_per_second"].values()) > 0
