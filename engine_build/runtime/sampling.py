"""The way from noise to a picture: the schedule of noise levels, Euler steps, and noise by seed.

Rectified flow, `x_s = (1 - s) x0 + s eps`; the model predicts `v = eps - x0`. The schedule is diffusers'
FlowMatchEulerDiscreteScheduler with FLUX.2's empirical shift, kept free of state so that requests of one
forward may stand at different steps.

Letters: L target tokens, C channels of a token, h, w token rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from engine_build.config import read_json
from engine_build.errors import CheckpointError, RequestError

_UNSUPPORTED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


def empirical_mu(tokens: int, steps: int) -> float:
    """Shift of the schedule for L = `tokens` target tokens and a number of steps (FLUX.2's published fit)."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + at_200 - 200.0 * slope


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a checkpoint; field names are those of `scheduler/scheduler_config.json`."""

    shift: float = 1.0
    use_dynamic_shifting: bool = True
    time_shift_type: str = "exponential"
    shift_terminal: float | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a checkpoint folder. Raises CheckpointError for another scheduler or an unknown option."""
        path = folder / "scheduler" / "scheduler_config.json"
        values: dict[str, Any] = read_json(path)
        name = values.get("_class_name", "FlowMatchEulerDiscreteScheduler")
        if name != "FlowMatchEulerDiscreteScheduler":
            raise CheckpointError(f"{path}: {name} is not supported, only FlowMatchEulerDiscreteScheduler")
        wanted = [option for option in _UNSUPPORTED if values.get(option)]
        if wanted:
            raise CheckpointError(f"{path}: {', '.join(wanted)} is not supported")
        schedule = cls(
            shift=float(values.get("shift", 1.0)),
            use_dynamic_shifting=bool(values.get("use_dynamic_shifting", False)),
            time_shift_type=str(values.get("time_shift_type", "exponential")),
            shift_terminal=values.get("shift_terminal"),
        )
        if schedule.time_shift_type not in ("exponential", "linear"):
            raise CheckpointError(f"{path}: time_shift_type {schedule.time_shift_type!r} is not supported")
        return schedule

    def sigmas(self, tokens: int, steps: int) -> Tensor:
        """Noise levels `[steps + 1]`, float32, from 1 down to 0. Raises RequestError for steps < 1."""
        if steps < 1:
            raise RequestError(f"steps must be at least 1, not {steps}")
        levels: np.ndarray[Any, np.dtype[np.floating]] = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
        if self.use_dynamic_shifting:
            mu = empirical_mu(tokens, steps)
            factor = math.exp(mu) if self.time_shift_type == "exponential" else mu
            levels = factor / (factor + (1 / levels - 1))
        else:
            levels = self.shift * levels / (1 + (self.shift - 1) * levels)
        if self.shift_terminal:
            levels = 1 - (1 - levels) * (1 - self.shift_terminal) / (1 - levels[-1])
        return torch.from_numpy(np.append(levels, 0.0).astype(np.float32))


def noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Gaussian noise `(h * w, C)`, float32, made on the CPU so that a seed is the same everywhere."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randn((1, channels, height, width), generator=generator, dtype=torch.float32)
    return drawn[0].flatten(1).T.contiguous()


def euler_step(x: Tensor, velocity: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """`x + (sigma_next - sigma) v`, float32; x and velocity `(L, C)`."""
    return x + (sigma_next - sigma) * velocity.float()


def predict_x0(x: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """The clean tokens `(L, C)` that the velocity points at: `x - sigma v`."""
    return x - sigma * velocity.float()
