"""Packed training samples: what is packed equals what is alone, in losses and gradients; conditions drop whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.runtime.sampling import Schedule
from engine_build.training.data.packed_batch import (
    noised,
    pack_samples,
    padded,
    per_token,
    sample_means,
    token_weights,
)
from engine_build.training.data.sample import Tokens
from engine_build.training.measure.sampler import draw

SHAPE = ModelConfig(
    num_layers=1,
    num_single_layers=1,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=8,
    joint_attention_dim=12,
    axes_dims_rope=(4, 4, 4, 4),
)
MODES = ("joint", "shared", "isolated")


def _model(mode: str) -> MMDiT:
    torch.manual_seed(0)
    model = MMDiT(replace(SHAPE, reference_attention=mode)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model


def _tokens(seed: int, grid: tuple[int, int], garments: tuple[tuple[int, int], ...]) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    grids = (grid, *garments)

    def random(n: int) -> Tensor:
        return torch.randn(n, 8, generator=g, dtype=torch.float64)

    return Tokens(
        target=random(math.prod(grid)),
        grid=grid,
        references=tuple(random(math.prod(one)) for one in grids),
        grids=grids,
        categories=("person",) + ("tops",) * len(garments),
        instruction=f"sample {seed}",
        share=torch.rand(math.prod(grid), generator=g, dtype=torch.float64),
    )


SAMPLES = [_tokens(0, (3, 2), ((2, 2),)), _tokens(1, (4, 3), ()), _tokens(2, (3, 2), ((2, 2), (3, 1), (1, 2)))]
TEXT = [torch.randn(n, 12, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (3, 5, 4)]


def _loss(model: MMDiT, batch: PackedBatch, eps: Tensor, sigma: Tensor) -> Tensor:
    velocity = model(noised(batch, batch.target, eps, sigma))
    return sample_means((velocity - (eps - batch.target)).square(), batch.target_segments).mean()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("draws", [1, 2])
def test_packed_equals_alone_in_losses_and_gradients(mode: str, draws: int) -> None:
    model, joint = _model(mode), mode == "joint"
    batch = pack_samples(SAMPLES, TEXT, draws, joint)
    eps = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    sigma = torch.linspace(0.1, 0.9, 3 * draws, dtype=torch.float64)
    loss = _loss(model, batch, eps, sigma)
    loss.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    noises, alone = eps.split(batch.target_segments.lengths), 0.0
    for i in range(3 * draws):
        one = pack_samples([SAMPLES[i // draws]], [TEXT[i // draws]], 1, joint)
        part = _loss(model, one, noises[i], sigma[i : i + 1]) / (3 * draws)
        part.backward()
        alone += float(part.detach())
    assert float(loss.detach()) == pytest.approx(alone, rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], atol=1e-6, rtol=1e-4, msg=name)


def test_references_keep_their_slots_and_targets_come_first() -> None:
    batch = pack_samples(SAMPLES, TEXT, 2)
    assert batch.draws == 2 and batch.reference_counts == (2, 1, 4)
    slots = [ids[0, 0].item() for ids in batch.reference_ids.split(batch.reference_segments.lengths)]
    assert slots == [10, 20, 10, 10, 20, 30, 40]
    assert not batch.target_ids[:, 0].any()
    assert batch.target_segments.lengths == (6, 6, 12, 12, 6, 6)
    torch.testing.assert_close(batch.target[6:12], SAMPLES[0].target)


def test_noise_is_laid_on_by_each_target_own_level() -> None:
    batch = pack_samples(SAMPLES, TEXT)
    eps = torch.ones_like(batch.target)
    noisy = noised(batch, batch.target, eps, torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64))
    first, second, third = noisy.target.split(batch.target_segments.lengths)
    torch.testing.assert_close(first, SAMPLES[0].target)
    torch.testing.assert_close(second, torch.ones_like(second))
    torch.testing.assert_close(third, 0.75 * SAMPLES[2].target + 0.25)
    assert per_token(batch, torch.tensor([1.0, 2.0, 3.0]))[:, 0].tolist() == [1.0] * 6 + [2.0] * 12 + [3.0] * 6


def test_without_its_condition_a_sample_keeps_the_picture_alone() -> None:
    bare = SAMPLES[2].unconditioned()
    assert (bare.instruction, len(bare.references), bare.categories) == ("", 1, ("person",))
    assert torch.equal(bare.references[0], SAMPLES[2].references[0]) and torch.equal(bare.target, SAMPLES[2].target)


def test_weights_average_to_one_and_may_be_the_region_alone() -> None:
    weight = token_weights(SAMPLES, 4.0, draws=2)
    for sample, part in zip([s for s in SAMPLES for _ in range(2)], weight.split([6, 6, 12, 12, 6, 6]), strict=True):
        expected = 1 + 4 * sample.share
        torch.testing.assert_close(part, expected / expected.mean())
    only = replace(SAMPLES[0], share=torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    assert token_weights([only], 4.0, region_only=True).tolist() == pytest.approx([0, 2, 0, 4, 0, 0])
    empty = replace(only, share=torch.zeros(6, dtype=torch.float64))
    assert not token_weights([empty], 4.0, region_only=True).any()


def test_padded_samples_all_look_like_the_largest() -> None:
    blank = padded(SAMPLES)
    assert {s.grid for s in blank} == {(4, 3)} and {s.grids for s in blank} == {((4, 3),) * 4}
    assert torch.equal(blank[0].target[:6], SAMPLES[0].target) and not blank[0].target[6:].any()
    assert torch.equal(blank[2].references[2][:3], SAMPLES[2].references[2])
    assert len({len(t.references) for t in blank}) == 1


@pytest.mark.parametrize("mode", MODES)
def test_sampling_takes_euler_steps_with_guidance_between_two_passes(mode: str) -> None:
    model, joint = _model(mode), mode == "joint"
    batch = pack_samples(SAMPLES, TEXT, 1, joint)
    null = pack_samples([s.unconditioned() for s in SAMPLES], [t[:1] for t in TEXT], 1, joint)
    eps = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    schedule = Schedule(2.0, use_dynamic_shifting=False)
    levels = schedule.sigmas(6, 2).double()
    expected = eps
    with torch.no_grad():
        for now, then in ((levels[0], levels[1]), (levels[1], levels[2])):
            at = now.repeat(3)
            c, u = model(batch.at(expected, at)), model(null.at(expected, at))
            expected = expected + (then - now) * (u + 3.0 * (c - u))
    got = draw(model, batch, eps, schedule, 2, 3.0, null)
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-3)
    again = draw(model, batch, eps, schedule, 2, 3.0, null, encode_once=False)
    torch.testing.assert_close(again.double(), expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="unconditioned batch"):
        draw(model, batch, eps, schedule, 2, 3.0)
