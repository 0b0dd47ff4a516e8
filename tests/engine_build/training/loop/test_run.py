"""A run that is interrupted ends where an uninterrupted one ends; averages, rates and updates are as published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nano_runs import FLOW, SHAPE, VAE
from torch import nn

from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.muon import Muon, orthogonalise
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.loop.run import Ema, Run, psnr, warm_then_decay
from engine_build.training.loop.sharding import Place
from engine_build.training.loop.tokenizer import train as train_tokenizer
from engine_build.training.nano import flow, vae


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def test_an_interrupted_autoencoder_ends_the_same(tmp_path: Path) -> None:
    vae.train(VAE, tmp_path / "whole", resume=False)
    vae.train(VAE, tmp_path / "parts", resume=False, minutes=0)
    assert Run(tmp_path / "parts", "vae").load()["step"] == 1
    torch.rand(7)
    vae.train(VAE, tmp_path / "parts", resume=True)
    whole, parts = (Run(tmp_path / name, "vae").load() for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == VAE.steps
    for part in ("model", "ema", "optimizers"):
        assert _same(whole[part], parts[part]), part


def test_a_second_autoencoder_stage_sees_whole_pictures_and_begins_with_the_first_ones_average(tmp_path: Path) -> None:
    still = replace(VAE, crop=0, batch=1, shot=40, head_weight=4.0, steps=5, learning_rate=0.0)
    trained = vae.train_stages([VAE, still], tmp_path, resume=False)
    first = Run(tmp_path, "vae").load()["ema"]["values"]
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("bn.")}
    assert all(torch.allclose(value, first[name]) for name, value in weights.items())
    people, weight = vae.batch(1, still)
    shots, plain = vae.batch(4, still)
    assert people.shape[2] in VAE.heights and set(weight.unique().tolist()) == {1.0, 5.0}
    assert shots.shape == (4, 3, 40, 40) and plain.unique().tolist() == [1.0]


def test_an_interrupted_flow_ends_the_same(tmp_path: Path) -> None:
    tokenizer, encoder = train_tokenizer(samples=50), Encoder(vae.build(VAE))

    def go(name: str, resume: bool, minutes: float | None = None) -> dict[str, Any]:
        flow.train(FLOW, SHAPE, encoder, tokenizer, tmp_path / name, resume, minutes=minutes)
        return Run(tmp_path / name, "flow").load()

    whole = go("whole", resume=False)
    assert go("parts", resume=False, minutes=0)["step"] == 1
    torch.rand(7)
    parts = go("parts", resume=True)
    assert whole["step"] == parts["step"] == FLOW.steps
    for part in ("model", "ema", "optimizers"):
        assert _same(whole[part], parts[part]), part
    first = go("parts again", resume=False, minutes=0)
    assert not _same(whole["model"], first["model"])


def test_looking_at_samples_changes_nothing(tmp_path: Path) -> None:
    tokenizer, encoder = train_tokenizer(samples=50), Encoder(vae.build(VAE))
    seen: list[int] = []

    def show(stage: str, step: int, model: NanoModel) -> None:
        seen.append(step)
        shown = model.dit.x_embedder.weight.detach().clone()
        averages.append(shown)

    averages: list[torch.Tensor] = []
    config = FlowConfig(**{**FLOW.__dict__, "show_every": 2})
    plain = flow.train(config, SHAPE, encoder, tokenizer, tmp_path / "plain", False)
    shown = flow.train(config, SHAPE, encoder, tokenizer, tmp_path / "shown", False, show=show)
    assert seen == [2, 4]
    assert _same(plain.state_dict(), shown.state_dict())
    assert torch.equal(averages[-1], shown.dit.x_embedder.weight)


def test_a_broken_save_leaves_the_last_state(tmp_path: Path) -> None:
    run = Run(tmp_path, "s")
    assert run.load() is None
    run.save({"step": 1})
    with pytest.raises(Exception, match="pickle"):
        run.save({"step": 2, "bad": lambda: None})
    assert run.load()["step"] == 1


def test_the_log_is_one_json_object_a_line(tmp_path: Path) -> None:
    run = Run(tmp_path, "s")
    run.log(3, loss=torch.tensor(0.123456789))
    run.log(4, loss=0.5)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 4]
    assert rows[0]["loss"] == 0.12346


def test_the_bar_goes_on_where_the_run_stopped_and_only_the_first_process_shows_one(tmp_path: Path) -> None:
    steps = [(step, bar.tasks[task].completed, bar.disable) for step, bar, task in Run(tmp_path, "s").progress(2, 5)]
    assert steps == [(2, 2, False), (3, 3, False), (4, 4, False)]
    assert [bar.disable for _, bar, _ in Run(tmp_path, "s", Place(1, 2)).progress(0, 2)] == [True, True]


def test_averages_warm_up() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    ema = Ema(module, decay=0.5)
    expected = 0.0
    for n in range(1, 12):
        nn.init.constant_(module.weight, float(n))
        ema.update(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        assert float(ema.values["weight"]) == pytest.approx(expected, rel=1e-6)
    with ema.applied(module):
        assert module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert module.weight.item() == 11.0


def test_rate_rises_stays_and_falls() -> None:
    factors = [warm_then_decay(step, 100, 10, 20) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)
    assert warm_then_decay(0, 1, 0, 0) == 1.0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int], bf16: bool) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    result = orthogonalise(update, bf16=bf16)
    values = torch.linalg.svdvals(result)
    assert result.shape == shape and result.dtype == update.dtype
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    assert float((result * (u @ v)).sum()) / min(shape) > 0.7


def test_muon_moves_matrices_and_convolutions_by_adamw_sized_steps() -> None:
    torch.manual_seed(0)
    for shape in ((32, 64), (16, 8, 3, 3)):
        weight = nn.Parameter(torch.zeros(shape))
        optimizer = Muon([weight], lr=0.1)
        goal = torch.randn(shape)
        (weight - goal).square().sum().backward()
        optimizer.step()
        assert float((weight.detach() * goal).sum()) > 0
        assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.3)


def test_psnr_of_a_known_error() -> None:
    assert psnr(torch.full((3, 4), 0.6), torch.full((3, 4), 0.5)) == pytest.approx(20.0, abs=1e-4)
