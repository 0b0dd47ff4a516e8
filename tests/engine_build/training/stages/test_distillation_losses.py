"""The losses of stages D and E against plain arithmetic, and what their gradients do at the points that matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_build.training.data.packed_batch import sample_means
from engine_build.training.data.sample import Tokens
from engine_build.training.measure.sampler import guided, strength
from engine_build.training.stages.cfg_distill import imitation_loss
from engine_build.training.stages.dmd import matching_direction, matching_levels, matching_loss, renoised
from engine_build.training.stages.nft import (
    advantages,
    anchor_loss,
    follow,
    geometric,
    implicit_policies,
    optimality,
    policy_loss,
)
from kernels import Segments

LENGTHS = (5, 3, 4)


def _tokens(*names: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(sum(LENGTHS), 6, generator=generator, dtype=torch.float64) for name in names}


def _parts(x: Tensor) -> list[np.ndarray]:
    return np.split(x.detach().numpy(), np.cumsum(LENGTHS)[:-1])


def test_sample_means_are_the_means_of_each_part() -> None:
    x = _tokens("x")["x"]
    for segments, parts in ((Segments(LENGTHS), _parts(x)), (Segments((4, 4, 4)), np.split(x.numpy(), 3))):
        assert sample_means(x, segments).tolist() == pytest.approx([p.mean() for p in parts])
        assert sample_means(x[:, 0], segments).tolist() == pytest.approx([p[:, 0].mean() for p in parts])


def test_rewards_aggregate_geometrically_and_leave_out_what_is_missing() -> None:
    scores = torch.tensor([[[1.0, 10.0, 10.0, 10.0], [8.0, 8.0, math.nan, 8.0]]])
    assert geometric(scores)[0].tolist() == pytest.approx([10**0.75, 8.0])
    hacked = torch.tensor([[10.0, 10.0, 10.0, 2.0]])
    honest = torch.tensor([[8.0, 8.0, 8.0, 8.0]])
    assert hacked.mean() == honest.mean() and geometric(hacked) < geometric(honest)


def test_advantages_are_centred_by_prompt_and_scaled_by_all() -> None:
    rewards = torch.tensor([[1.0, 3.0], [10.0, 10.0], [0.0, 8.0]])
    values = rewards.numpy()
    expected = (values - values.mean(1, keepdims=True)) / (values.std() + 1e-4)
    np.testing.assert_allclose(advantages(rewards).numpy(), expected, rtol=1e-5)
    wild = torch.zeros(1, 400)
    wild[0, 0] = 1.0
    assert float(advantages(wild).max()) == 5.0
    assert optimality(torch.tensor([-5.0, -2.5, 0.0, 5.0, 9.0])).tolist() == [0.0, 0.25, 0.5, 1.0, 1.0]


def _policy(velocity: Tensor, t: dict[str, Tensor], good: Tensor, beta: float) -> Tensor:
    sigma = Segments(LENGTHS).per_token(torch.tensor([[0.9], [0.5], [0.2]], dtype=torch.float64))
    return policy_loss(velocity, t["old"], t["x0"], t["noisy"], sigma, good, Segments(LENGTHS), beta)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_policy_loss_by_hand(beta: float) -> None:
    t = _tokens("velocity", "old", "x0", "noisy")
    good = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    total = 0.0
    rows = zip(*(_parts(t[n]) for n in ("velocity", "old", "x0", "noisy")), (0.9, 0.5, 0.2), good.tolist(), strict=True)
    for v, old, x0, noisy, sigma, r in rows:
        for share, policy in ((r, beta * v + (1 - beta) * old), (1 - r, (1 + beta) * old - beta * v)):
            error = noisy - sigma * policy - x0
            total += share * (error**2).mean() / np.abs(error).mean()
    assert float(_policy(t["velocity"], t, good, beta)) == pytest.approx(total / 3 * 5 / beta, rel=1e-9)


def test_at_the_old_policy_nothing_differs_and_indifference_moves_nothing() -> None:
    t = _tokens("old", "x0", "noisy")
    for beta in (1.0, 0.3):
        positive, negative = implicit_policies(t["old"], t["old"], beta)
        torch.testing.assert_close(positive, t["old"])
        torch.testing.assert_close(negative, t["old"])

    def gradient(r: float) -> Tensor:
        velocity = t["old"].clone().requires_grad_()
        _policy(velocity, t, torch.full((3,), r, dtype=torch.float64), 1.0).backward()
        return velocity.grad

    assert float(gradient(0.5).abs().max()) < 1e-12
    torch.testing.assert_close(gradient(0.8), -gradient(0.2))
    towards = t["old"] - 1e-3 * gradient(1.0)
    good = torch.ones(3, dtype=torch.float64)
    assert _policy(towards, t, good, 1.0) < _policy(t["old"], t, good, 1.0)


def test_gradient_of_the_policy_loss_is_that_of_constant_weights() -> None:
    """Finite differences with w frozen: the adaptive weight must not be differentiated."""
    t = _tokens("velocity", "old", "x0", "noisy")
    good = torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64)
    velocity = t["velocity"].clone().requires_grad_()
    _policy(velocity, t, good, 1.0).backward()
    sigmas = np.repeat([0.9, 0.5, 0.2], LENGTHS)[:, None]
    counts = np.repeat([6 * n for n in LENGTHS], LENGTHS)[:, None]
    r = np.repeat(good.numpy(), LENGTHS)[:, None]
    v, old, x0, noisy = (t[n].numpy() for n in ("velocity", "old", "x0", "noisy"))
    expected = 0.0
    for share, policy, sign in ((r, v, 1), (1 - r, 2 * old - v, -1)):
        error = noisy - sigmas * policy - x0
        w = np.repeat([np.abs(p).mean() for p in np.split(error, np.cumsum(LENGTHS)[:-1])], LENGTHS)[:, None]
        expected = expected + share / w * 2 * error * -sigmas * sign / counts
    np.testing.assert_allclose(velocity.grad.numpy(), expected * 5 / 3, rtol=1e-8)


def test_old_and_reference_policies_get_no_gradient() -> None:
    t = {name: value.requires_grad_() for name, value in _tokens("velocity", "old", "x0", "noisy").items()}
    good = torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64)
    (_policy(t["velocity"], t, good, 1.0) + anchor_loss(t["velocity"], t["old"])).backward()
    assert t["velocity"].grad is not None and t["old"].grad is None
    assert float(anchor_loss(t["x0"], t["noisy"]).detach()) == pytest.approx(
        float(((t["x0"] - t["noisy"]).detach().numpy() ** 2).mean())
    )


def test_the_old_policy_follows_ever_more_slowly() -> None:
    assert [follow(step, 0.1, 0.3) for step in range(5)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.3])


def test_guidance_extrapolates_and_one_is_the_condition_alone() -> None:
    t = _tokens("c", "u")
    torch.testing.assert_close(guided(t["c"], t["u"], 1.0), t["c"])
    np.testing.assert_allclose(
        guided(t["c"], t["u"], 4.0).numpy(), t["u"].numpy() + 4 * (t["c"].numpy() - t["u"].numpy())
    )


def test_imitation_is_a_weighted_square_and_teaches_the_student_alone() -> None:
    t = {name: value.requires_grad_() for name, value in _tokens("student", "teacher").items()}
    weight = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    value = imitation_loss(t["student"], t["teacher"], weight)
    difference = (t["student"] - t["teacher"]).detach().numpy()
    assert float(value.detach()) == pytest.approx((weight.numpy()[:, None] * difference**2).mean())
    value.backward()
    np.testing.assert_allclose(t["student"].grad.numpy(), 2 * weight.numpy()[:, None] * difference / 72)
    assert t["teacher"].grad is None


def test_matching_direction_by_hand() -> None:
    t = _tokens("x", "real", "fake")
    direction = matching_direction(t["x"], t["real"], t["fake"], Segments(LENGTHS))
    for g, x, real, fake in zip(*(_parts(v) for v in (direction, t["x"], t["real"], t["fake"])), strict=True):
        np.testing.assert_allclose(g, ((x - real) - (x - fake)) / np.abs(x - real).mean())


def test_a_fake_that_equals_the_teacher_moves_nothing() -> None:
    t = _tokens("x", "real")
    assert not matching_direction(t["x"], t["real"], t["real"].clone(), Segments(LENGTHS)).any()


def test_gradient_of_matching_is_the_direction_and_reaches_the_student_alone() -> None:
    t = {name: value.requires_grad_() for name, value in _tokens("x", "real", "fake").items()}
    direction = matching_direction(t["x"], t["real"], t["fake"], Segments(LENGTHS))
    value = matching_loss(t["x"], direction)
    assert float(value.detach()) == pytest.approx(0.5 * float(direction.square().mean()))
    value.backward()
    torch.testing.assert_close(t["x"].grad, direction / 72)
    assert t["real"].grad is None and t["fake"].grad is None


def test_the_student_goes_from_the_fake_to_the_teacher() -> None:
    """One dimension: the fake believes in 0, the teacher in 1; descending moves x upwards."""
    x = torch.zeros(1, 1, requires_grad=True)
    direction = matching_direction(x, torch.ones(1, 1), torch.zeros(1, 1), Segments((1,)))
    matching_loss(x, direction).backward()
    assert float(x.grad) == -1.0


def test_levels_stay_in_their_range() -> None:
    levels = matching_levels(4096, 0.02, 0.98, torch.Generator().manual_seed(0))
    assert 0.02 <= float(levels.min()) < 0.03 and 0.97 < float(levels.max()) <= 0.98


def test_keeping_the_own_noise_is_the_step_inference_takes() -> None:
    t = _tokens("state", "velocity", "eps")
    x0 = t["state"] - 0.8 * t["velocity"]
    torch.testing.assert_close(renoised(x0, t["velocity"], 0.3, None), t["state"] + (0.3 - 0.8) * t["velocity"])
    torch.testing.assert_close(renoised(x0, t["velocity"], 0.3, t["eps"]), 0.7 * x0 + 0.3 * t["eps"])


def test_focused_guidance_leaves_alone_what_should_stay() -> None:
    """Tokens whose pixels mostly stay get the conditioned velocity itself, the others the extrapolated one."""
    sample = Tokens(
        target=torch.zeros(3, 2),
        grid=(1, 3),
        references=(),
        grids=(),
        categories=(),
        instruction="",
        share=torch.tensor([0.0, 0.5, 0.9]),
    )
    towards = strength([sample], 3.0, focus=True, draws=2)
    assert isinstance(towards, torch.Tensor)
    assert towards[:, 0].tolist() == [1.0, 1.0, 3.0, 1.0, 1.0, 3.0]
    conditioned, unconditioned = torch.ones(6, 2), torch.zeros(6, 2)
    assert guided(conditioned, unconditioned, towards)[:, 0].tolist() == [1.0, 1.0, 3.0, 1.0, 1.0, 3.0]
    assert strength([sample], 3.0, focus=False) == 3.0
