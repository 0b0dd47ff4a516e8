"""The schedule and the noise against diffusers, and the Euler step against the flow it integrates."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.utils.torch_utils import randn_tensor

from engine_build.errors import CheckpointError, RequestError
from engine_build.runtime.sampling import Schedule, empirical_mu, euler_step, noise, predict_x0


@pytest.mark.parametrize("tokens", [1, 108, 3072, 4300, 4301, 9216])
@pytest.mark.parametrize("steps", [1, 4, 10, 50, 200])
def test_mu_is_the_published_fit(tokens: int, steps: int) -> None:
    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dynamic_shifting": True, "time_shift_type": "exponential"},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"use_dynamic_shifting": True, "time_shift_type": "exponential", "shift_terminal": 0.1},
        {"use_dynamic_shifting": False, "shift": 1.8},
    ],
)
@pytest.mark.parametrize(("tokens", "steps"), [(108, 4), (3072, 4), (4864, 7), (48, 20)])
def test_sigmas_are_the_schedulers(tmp_path: Path, options: dict, tokens: int, steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    scheduler.save_pretrained(tmp_path / "scheduler")
    mu = compute_empirical_mu(tokens, steps)
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    sigmas = Schedule.load(tmp_path).sigmas(tokens, steps)
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=1e-6, atol=1e-7)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_one_step_starts_at_pure_noise() -> None:
    assert Schedule().sigmas(108, 1).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_is_a_request_error(steps: int) -> None:
    with pytest.raises(RequestError, match="steps"):
        Schedule().sigmas(108, steps)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler"},
        {"use_karras_sigmas": True},
        {"use_dynamic_shifting": True, "time_shift_type": "cubic"},
    ],
)
def test_a_scheduler_we_do_not_have_is_named(tmp_path: Path, config: dict) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not supported"):
        Schedule.load(tmp_path)


def test_noise_is_what_diffusers_draws() -> None:
    expected = randn_tensor((1, 16, 12, 9), generator=torch.Generator("cpu").manual_seed(7))
    tokens = noise(7, 16, 12, 9)
    assert torch.equal(tokens, expected[0].permute(1, 2, 0).reshape(108, 16))
    assert not torch.equal(tokens, noise(8, 16, 12, 9))


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    noise(99, 4, 4, 4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_straight_flow_arrives_exactly(steps: int) -> None:
    """Where the velocity is eps - x0 everywhere, any number of Euler steps ends at x0."""
    generator = torch.Generator().manual_seed(steps)
    x0, eps = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    sigmas = Schedule().sigmas(108, steps).tolist()
    x = eps
    for now, after in itertools.pairwise(sigmas):
        torch.testing.assert_close(predict_x0(x, eps - x0, now), x0, atol=1e-5, rtol=1e-5)
        x = euler_step(x, eps - x0, now, after)
    torch.testing.assert_close(x, x0, atol=1e-5, rtol=1e-5)
