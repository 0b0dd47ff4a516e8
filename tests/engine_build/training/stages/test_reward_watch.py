"""What the logs must not hide: one category drifting while another improves, one reward bought with another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe import write_config
from torch import Tensor, nn

from engine_build.model.packing import PackedBatch
from engine_build.training.config import TrainConfig
from engine_build.training.data.sample import Tokens
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner, fit
from engine_build.training.loop.run import Run
from engine_build.training.loop.start_from import NetworkParts
from engine_build.training.stages.matching import Matching, held_out_by_category
from engine_build.training.stages.nft import Nft, NftConfig
from engine_build.training.stages.tables import TryOnConfig
from engine_build.world.scenes import HELD_OUT_SEED
from engine_build.world.specs import CATEGORIES

SIZE = {"start_from": "", "height": 32, "shot": 16}


@pytest.fixture
def recipe(tmp_path: Path) -> TrainConfig:
    return TrainConfig.load(write_config(tmp_path))


class KnownError(nn.Module):
    """A network that is exactly right about held-out samples but for a constant error of each category's."""

    def __init__(self, like: nn.Module, groups: dict[str, list[Tokens]], errors: dict[str, float]) -> None:
        super().__init__()
        self.config, self.device, self.groups, self.errors = like.config, like.device, groups, errors

    def forward(self, batch: PackedBatch) -> Tensor:
        for category, samples in self.groups.items():
            shown = torch.cat([reference for sample in samples for reference in sample.references])
            if torch.equal(shown, batch.references):
                clean = torch.cat([sample.target for sample in samples])
                sigma = batch.target_segments.per_token(batch.sigma[:, None])
                return (batch.target - clean) / sigma + self.errors[category]
        raise ValueError("not a held-out category")


def test_validation_tells_which_category_drifts_while_another_improves(recipe: TrainConfig) -> None:
    config = replace(recipe.stage("tryon"), **SIZE, validate_every=1)
    assert isinstance(config, TryOnConfig)
    parts = recipe.setup(torch.device("cpu")).parts(config)
    groups = held_out_by_category(parts, config)
    assert set(groups) == set(CATEGORIES) and all(len(samples) == 4 for samples in groups.values())
    assert all(s.scene is not None and s.scene.seed >= HELD_OUT_SEED for some in groups.values() for s in some)
    told = []
    for errors in ({"hats": 0.4, "tops": 0.2}, {"hats": 0.2, "tops": 0.4}):
        known = KnownError(parts.dit, groups, dict.fromkeys(CATEGORIES, 0.3) | errors)
        learner = Learner(parts.network, config)
        network = nn.Module()
        network.dit = known
        told.append(Matching(replace(parts, network=network), learner, stream=None, validate_every=1).validate())
    before, after = told
    assert sum(before.values()) == pytest.approx(sum(after.values()), rel=1e-4)
    change = {name: after[name] - before[name] for name in before}
    assert change.pop("held_out_hats") == pytest.approx(0.2**2 - 0.4**2, rel=1e-3)
    assert change.pop("held_out_tops") == pytest.approx(0.4**2 - 0.2**2, rel=1e-3)
    assert len(change) == 6 and all(abs(value) < 1e-5 for value in change.values())


class Bought:
    """Rewards of a policy that learns to buy identity with physics, picture by picture more; odd ones stay honest.

    By their plain mean the bought pictures are the better ones.
    """

    dimensions = ("identity", "physics")

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pictures: Sequence[Tensor], samples: Sequence[Tokens]) -> Tensor:
        self.asked += 1
        bought = torch.tensor([min(10.0, 6.0 + self.asked), max(3.0, 6.0 - 0.9 * self.asked)])
        rows = [[bought if i % 2 == 0 else torch.tensor([6.0, 6.0]) for i in range(len(p))] for p in pictures]
        return torch.stack([torch.stack(row) for row in rows])


def test_a_bought_reward_shows_in_the_log_and_earns_nothing(recipe: TrainConfig, tmp_path: Path) -> None:
    config = replace(recipe.stage("nft"), **SIZE, steps=8, window=2, sample_steps=1, updates=1, prompts=2, group=2)
    assert isinstance(config, NftConfig)
    parts: NetworkParts = recipe.setup(torch.device("cpu")).parts(config)
    parts.network.text.requires_grad_(False)
    learner, rewards = Learner(parts.network, config), Bought()
    copies = (adapters.twin(parts.dit), adapters.twin(parts.dit))
    run = Run(tmp_path / "run", "nft")
    step = Nft(parts, learner, config, copies, WorldTryOns(32, 16, (1.0,)), rewards, run)
    good: list[list[float]] = []
    descend = step._descend

    def heard(index: int, pieces: list[PackedBatch], x0: Tensor, r: Tensor, generator: torch.Generator) -> Tensor:
        good.append(r.tolist())
        return descend(index, pieces, x0, r, generator)

    step._descend = heard
    fit(run, learner, step, resume=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "nft.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "warning" not in row]
    assert len(logged) == 8 and {"reward", "identity", "physics"} <= logged[0].keys()
    assert logged[-1]["identity"] - logged[0]["identity"] == pytest.approx(1.5)
    assert logged[-1]["physics"] - logged[0]["physics"] == pytest.approx(-1.05)
    (first, *_) = warnings = [row for row in rows if "warning" in row]
    assert (
        2 <= first["step"] <= 4 and "identity +" in warnings[-1]["warning"] and "physics -" in warnings[-1]["warning"]
    )
    assert logged[-1]["reward"] < 6.0 < (10 + 3) / 2
    for bought, honest, again, too in good[4:]:
        assert bought == again < 0.5 < honest == too


def test_pictures_in_small_pieces_teach_what_all_at_once_teach(recipe: TrainConfig, tmp_path: Path) -> None:
    """For memory: 3 pictures of each of 2 prompts in pieces of 2, 1, 2, 1; same noise, same gradient."""
    config = replace(recipe.stage("nft"), **SIZE, steps=1, sample_steps=2, updates=1, prompts=2, group=3)
    config = replace(config, optimizer="adamw", learning_rate=1e-2, warm_up=1, decay_steps=1)
    rows, networks = [], []
    for micro in (0, 2):
        parts: NetworkParts = recipe.setup(torch.device("cpu")).parts(config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in parts.dit.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
        parts.network.text.requires_grad_(False)
        rewards = Uneven()
        copies = (adapters.twin(parts.dit), adapters.twin(parts.dit))
        learner = Learner(parts.network, replace(config, micro=micro))
        run = Run(tmp_path / f"run-{micro}", "nft")
        step = Nft(parts, learner, replace(config, micro=micro), copies, WorldTryOns(32, 16, (1.0, 1.0)), rewards, run)
        rows.append(step(0))
        moments = [state["exp_avg"].flatten() for one in learner.optimizers for state in one.state.values()]
        networks.append((rewards.pictures, torch.cat(moments)))
    (seen, whole), (also_seen, pieces) = networks
    for a, b in zip(seen, also_seen, strict=True):
        torch.testing.assert_close(b, a, atol=1e-3, rtol=0)
    assert float(rows[1]["loss"]) == pytest.approx(float(rows[0]["loss"]), rel=1e-3)
    assert len(whole) > 10_000 and float((pieces - whole).norm() / whole.norm()) < 5e-3


class Uneven:
    """Each picture of a group better than the one before."""

    dimensions = ("identity", "physics")

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def __call__(self, pictures: Sequence[Tensor], samples: Sequence[Tokens]) -> Tensor:
        self.pictures = list(pictures)
        return torch.stack([torch.arange(2.0, 2 + len(p))[:, None].expand(-1, 2) for p in pictures])
