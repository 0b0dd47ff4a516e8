"""A network between others: the average of several seeds' weights, and a share of the way to it from the start.

Networks fine-tuned from one start lie close enough together for their weights to be averaged (Wortsman et al.,
"Model soups", arXiv 2203.05482; Wise-FT, arXiv 2109.01903): what each seed drifted by chance cancels, and a share
below 1 buys back what the stage cost. No training, no evaluation more when serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.run import has_state, read_state


@dataclass(frozen=True)
class MergeConfig(StageConfig):
    """`share` of the way from `start_from` to the mean of the states `of`, named like `seed-0/cfg-distill`."""

    of: tuple[str, ...] = ()
    share: float = 1.0


def merged(start: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]], share: float) -> dict[str, Tensor]:
    """`(1 - share) start + share mean(others)` of every tensor. Raises RequestError when they do not match."""
    if not others:
        raise RequestError("[merge] of names no state to merge, as in of = ['seed-0/cfg-distill']")
    shapes = {name: value.shape for name, value in start.items()}
    if any({name: value.shape for name, value in one.items()} != shapes for one in others):
        raise RequestError("[merge] the states of `of` and start_from are not the same network")
    return {
        name: torch.lerp(value, torch.stack([one[name].to(value) for one in others]).mean(0), share)
        for name, value in start.items()
    }


def averages(out: Path, name: str) -> dict[str, Tensor]:
    """The averaged weights in `out/NAME.pt`. Raises RequestError when there are none."""
    path = out / f"{name}.pt"
    if not has_state(path):
        raise RequestError(f"[merge] there is no {path}; train that stage first")
    values: dict[str, Tensor] = read_state(path)["ema"]["values"]
    return values
