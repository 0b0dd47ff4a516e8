"""DMD2's adversary: both losses by hand, gradients that reach what they should, and a stage with it that resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import write_config
from torch import Tensor

from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.training.config import TrainConfig
from engine_build.training.data.packed_batch import noised, pack_samples
from engine_build.training.data.sample import Tokens
from engine_build.training.loop.learner import Learner, StageConfig, optimizers
from engine_build.training.loop.run import Run
from engine_build.training.loop.start_from import Backbone
from engine_build.training.stages.critic import Critic, Head, critic_loss, look, push, student_loss
from engine_build.training.stages.dmd import DmdConfig
from engine_build.training.train import run_stage
from kernels import Segments

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


def _fake() -> tuple[MMDiT, Head]:
    torch.manual_seed(0)
    model = MMDiT(SHAPE).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model, Head(SHAPE.width)


def _noisy(seed: int, tau: tuple[float, float] = (0.6, 0.3)) -> tuple[PackedBatch, Tensor]:
    """Two targets of 6 and 4 tokens, noised; and their clean tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(rows: int, columns: int) -> Tokens:
        draw = lambda: torch.randn(rows * columns, 8, generator=generator, dtype=torch.float64)  # noqa: E731
        return Tokens(draw(), (rows, columns), (draw(),), ((rows, columns),), ("person",), "", torch.zeros(6))

    texts = [torch.randn(3, 12, generator=generator, dtype=torch.float64) for _ in range(2)]
    batch = pack_samples([tokens(3, 2), tokens(2, 2)], texts)
    eps = torch.randn(batch.target.shape, generator=generator, dtype=torch.float64)
    return noised(batch, batch.target, eps, torch.tensor(tau, dtype=torch.float64)), batch.target


def test_losses_by_hand() -> None:
    fake, real = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 4.0, -1.0])
    f, r = fake.double().numpy(), real.double().numpy()
    expected = np.log1p(np.exp(f)).mean() + np.log1p(np.exp(-r)).mean()
    assert float(critic_loss(fake, real)) == pytest.approx(expected, rel=1e-6)
    assert float(student_loss(fake)) == pytest.approx(np.log1p(np.exp(-f)).mean(), rel=1e-6)
    undecided = torch.zeros(4)
    assert float(critic_loss(undecided, undecided)) == pytest.approx(2 * np.log(2))


def test_gradients_of_the_losses_are_the_sigmoids_that_calculus_gives() -> None:
    fake, real = (torch.linspace(-3, 3, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    critic_loss(fake, real).backward()
    sigmoid = 1 / (1 + np.exp(-np.linspace(-3, 3, 5)))
    np.testing.assert_allclose(fake.grad.numpy(), sigmoid / 5)
    np.testing.assert_allclose(real.grad.numpy(), (sigmoid - 1) / 5)
    passing = fake.detach().requires_grad_()
    student_loss(passing).backward()
    np.testing.assert_allclose(passing.grad.numpy(), (sigmoid - 1) / 5)


def test_the_head_is_two_layers_a_token_and_a_mean_over_each_target() -> None:
    head = Head(6, seed=3)
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    x = features.double().numpy()
    inner = x @ head.inner.weight.detach().double().numpy().T
    logits = (inner / (1 + np.exp(-inner))) @ head.out.weight.detach().double().numpy().T
    expected = [logits[:2].mean(), logits[2:].mean()]
    np.testing.assert_allclose(head(features, Segments((2, 5))).detach().numpy(), expected, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), Head(6, seed=3).parameters(), strict=True))
    assert not torch.equal(head.inner.weight, Head(6, seed=4).inner.weight)


def test_looking_changes_nothing_and_leaves_nothing_behind() -> None:
    model, head = _fake()
    noisy, _ = _noisy(1)
    with torch.no_grad():
        velocity, logits = look(model, head, noisy)
        torch.testing.assert_close(velocity, model(noisy).float())
    assert logits.shape == (2,) and not model.proj_out._forward_pre_hooks


def test_the_critic_teaches_its_network_and_head_and_not_the_student() -> None:
    model, head = _fake()
    student = torch.zeros(10, 8, dtype=torch.float64, requires_grad=True)
    noisy, _ = _noisy(1)
    _, fake = look(model, head, noisy.at(noisy.target + student.detach(), noisy.sigma))
    _, real = look(model, head, _noisy(2)[0])
    critic_loss(fake, real).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"proj_out.weight"}
    assert all(p.grad is not None and p.grad.any() for name, p in head.named_parameters() if "weight" in name)
    assert student.grad is None


def test_the_push_is_the_slope_of_the_students_loss_and_reaches_nothing_else() -> None:
    model, head = _fake()
    noisy, _ = _noisy(1)
    loss, slope = push(model, head, noisy)
    assert all(p.grad is None for p in (*model.parameters(), *head.parameters()))
    assert slope.shape == noisy.target.shape and not slope.requires_grad
    way = torch.randn(slope.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def at(distance: float) -> float:
        with torch.no_grad():
            return float(student_loss(look(model, head, noisy.at(noisy.target + distance * way, noisy.sigma))[1]))

    assert float(loss) == pytest.approx(at(0.0), rel=1e-5)
    assert float((slope * way).sum()) == pytest.approx((at(1e-2) - at(-1e-2)) / 2e-2, rel=0.02)
    with torch.no_grad():
        after = student_loss(look(model, head, noisy.at(noisy.target - 0.5 * slope / slope.norm(), noisy.sigma))[1])
    assert float(after) < float(loss)


def test_network_and_head_learn_to_tell_real_from_made() -> None:
    model, head = _fake()
    model, critic = model.float(), Critic(Backbone(model.float()), head)
    config = DmdConfig(optimizer="adamw", learning_rate=1e-2, warm_up=1, decay_steps=1, steps=100)
    learner = Learner(critic, config)
    as_float = lambda batch: replace(  # noqa: E731
        batch, text=batch.text.float(), target=batch.target.float(), references=batch.references.float()
    )
    made, real = (as_float(replace(_noisy(n)[0], sigma=torch.tensor([0.6, 0.3]))) for n in (1, 2))
    losses = []
    for step in range(10):
        loss = critic_loss(look(model, head, made)[1], look(model, head, real)[1])
        learner.descend(loss, step)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_head_has_an_optimizer_of_its_own() -> None:
    model, head = _fake()
    own = {id(p) for p in head.parameters()}
    for name in ("adamw", "muon"):
        made = optimizers(Critic(model, head), StageConfig(optimizer=name), 1)
        groups = [{id(p) for g in o.param_groups for p in g["params"]} for o in made]
        assert own in groups and sum(map(len, groups)) == len(own) + len(list(model.parameters()))


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2, "bf16": True, "checkpointing": True}])
def test_a_stage_with_a_critic_runs_and_resumes_exactly(tmp_path: Path, changes: dict[str, object]) -> None:
    config = TrainConfig.load(write_config(tmp_path))
    own = {"start_from": "", "height": 32, "shot": 16, "steps": 2, "optimizer": "adamw", "fake_updates": 1}
    table = replace(config.stage("dmd"), gan=True, **own, **changes)
    run_stage(config, "dmd", resume=False, name="whole", table=table)
    run_stage(config, "dmd", resume=False, name="parts", table=table, stop_after=1)
    run_stage(config, "dmd", resume=True, name="parts", table=table)
    whole, parts = (Run(config.out, name).load() for name in ("whole", "parts"))
    for state in (whole, parts):
        assert {key for key in state["fake"]["model"] if key.startswith("head.")} == {
            f"head.{layer}.{part}" for layer in ("inner", "out") for part in ("weight", "bias")
        }
    assert all(torch.equal(value, parts["fake"]["model"][key]) for key, value in whole["fake"]["model"].items())
    assert all(torch.equal(value, parts["model"][key]) for key, value in whole["model"].items())
    (first, *_) = [json.loads(line) for line in (config.out / "whole.jsonl").read_text().splitlines()]
    assert first["critic_loss"] > 0 and first["passing_loss"] > 0


def test_it_is_off_unless_asked_for() -> None:
    assert not DmdConfig().gan and (DmdConfig().gan_student, DmdConfig().gan_critic) == (5e-3, 1e-2)
