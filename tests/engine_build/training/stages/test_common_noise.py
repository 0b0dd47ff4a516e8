"""Pictures of one prompt noised alike: what they have in common teaches nothing, whatever their rewards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe import write_config

from engine_build.training.config import TrainConfig
from engine_build.training.data.sample import encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner
from engine_build.training.loop.run import Run
from engine_build.training.stages.nft import Nft, NftConfig, WorldRewards


@pytest.mark.parametrize("common", [True, False])
def test_rewards_among_equal_pictures_move_nothing(tmp_path: Path, common: bool) -> None:
    """At the old policy the gradient is a sum of (2 r - 1) times each picture's own, and r averages to one half."""
    recipe = TrainConfig.load(write_config(tmp_path))
    size = {"start_from": "", "height": 32, "shot": 16, "prompts": 2, "group": 2, "optimizer": "adamw"}
    config = replace(recipe.stage("nft"), **size, common_noise=common, anchor=0.0, warm_up=1, micro=1)
    assert isinstance(config, NftConfig)
    parts = recipe.setup(torch.device("cpu")).parts(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parts.dit.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    parts.network.text.requires_grad_(False)
    source, learner = WorldTryOns(32, 16, (1.0,)), Learner(parts.network, config)
    copies = (adapters.twin(parts.dit), adapters.twin(parts.dit))
    step = Nft(parts, learner, config, copies, source, WorldRewards(None), Run(tmp_path / "run", "nft"))
    samples = encode(parts.encoder, source.draw([0, 1]))
    pieces = step._pieces(samples)
    assert len(pieces) == 4
    x0 = torch.cat([sample.target for sample in samples for _ in range(2)])
    step._descend(0, pieces, x0, torch.tensor([0.9, 0.1, 0.3, 0.7]), torch.Generator().manual_seed(2))
    moments = torch.cat([s["exp_avg"].flatten() for one in learner.optimizers for s in one.state.values()])
    assert (float(moments.abs().max()) < 1e-6) == common
