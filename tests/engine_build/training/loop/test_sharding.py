"""Two processes under torchrun train as one does: same losses, same weights, one state that either can resume.

Where the noise belongs to a process (reinforcement, DMD) they are not one process's twin: there a run that was
interrupted must equal one that was not, and both processes must hold the same.

Two processes sum in another order than one, and AdamW takes a step of full length whichever way a gradient of almost
nothing points: how far that leads apart depends on the processor. So one process also trains from weights that are off
by rounding, and two may differ from one by no more than a few times what those two runs of one differ by.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import COMMON, write_config

from engine_build.model.lora import read_lora
from engine_build.training.config import TrainConfig
from engine_build.training.loop.run import Run
from engine_build.training.train import run_stage

HERE = Path(__file__).parent
FULL = COMMON.replace("steps = 3", "steps = 2") + 'optimizer = "adamw"\n'
ROUNDING = 2.0**-22
"""What each starting weight of a run is moved by, relatively, to see how far rounding leads: some float32 roundings."""
TIMES = 10.0
LOG_STEP = 1e-5
"""Logged numbers have five decimals."""
SMALL = {"height": 32, "shot": 16}
LORA = {"lora_rank": 2}
HALF = {"bf16": True, "checkpointing": True}
WATCHED = {"optimizer": "muon", "validate_every": 2, "show_every": 2, "train_text": True}
PLAN: list[tuple[str, str, dict[str, Any], bool, int | None]] = [
    ("cfg-distill", "cfg", SMALL, False, None),
    ("cfg-distill", "cfg-handed-over", SMALL, False, 1),
    ("expert", "expert", SMALL, False, None),
    ("tryon", "muon", {**SMALL, **WATCHED}, False, None),
    ("nft", "nft", {}, False, None),
    ("nft", "nft-parts", {}, False, 1),
    ("nft", "nft-parts", {}, True, None),
    ("dmd", "dmd", {**SMALL, **HALF}, False, None),
    ("dmd", "dmd-parts", {**SMALL, **HALF}, False, 1),
    ("dmd", "dmd-parts", {**SMALL, **HALF}, True, None),
    ("nft", "nft-lora", {**LORA, **HALF}, False, None),
    ("cfg-distill", "cfg-lora", {**SMALL, **LORA}, False, None),
    ("dmd", "dmd-lora", {**SMALL, **LORA}, False, None),
    ("dmd", "dmd-gan", {**SMALL, "gan": True, "fake_updates": 1}, False, None),
]
pytestmark = pytest.mark.timeout(600)


def _config(folder: Path) -> Path:
    """Every stage starts from `start`, a network whose every part has a say."""
    folder.mkdir()
    path = write_config(folder, common=FULL)
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("start_from"))
    text = text.replace('optimizer = "adamw"\n', 'optimizer = "adamw"\nstart_from = "start"\n')
    path.write_text(text.replace("report_samples = 2", "report_samples = 0"))
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The run of one process, `start` in its folder."""
    config = TrainConfig.load(_config(tmp_path_factory.mktemp("sharding") / "alone"))
    run_stage(config, "pretrain", False, stop_after=1, table=replace(config.stage("pretrain"), start_from="", **SMALL))
    state = Run(config.out, "pretrain").load()
    assert state is not None
    generator = torch.Generator().manual_seed(0)
    for name, value in state["ema"]["values"].items():
        if name.startswith("dit.") and value.ndim == 2:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    torch.save(state, config.out / "start.pt")
    for value in state["ema"]["values"].values():
        if value.is_floating_point():
            value.mul_(1 + ROUNDING * torch.randn(value.shape, generator=generator))
    torch.save(state, config.out / "rounded.pt")
    return config


@dataclass(frozen=True)
class Allowance:
    """How far rounding leads two runs of one process apart: each logged number by row, and each part of the state."""

    rows: list[dict[str, float]]
    parts: dict[str, float]


OfOne = Callable[[str, str, dict[str, Any]], Allowance]


@pytest.fixture(scope="module")
def of_one(alone: TrainConfig) -> OfOne:
    """Trains a stage in one process, as `name` and once more from rounded weights; each name once."""
    known: dict[str, Allowance] = {}

    def go(stage: str, name: str, changes: dict[str, Any]) -> Allowance:
        if name not in known:
            table = replace(alone.stage(stage), **changes)
            run_stage(alone, stage, False, name=name, table=table)
            run_stage(alone, stage, False, name=f"{name}-rounded", table=replace(table, start_from="rounded"))
            one, rounded = _rows(alone, name), _rows(alone, f"{name}-rounded")
            rows = [{key: abs(a[key] - b[key]) for key in a} for a, b in zip(one, rounded, strict=True)]
            known[name] = Allowance(rows, _distances(_state(alone, name), _state(alone, f"{name}-rounded")))
        return known[name]

    return go


def _together(alone: TrainConfig, name: str) -> Path:
    folder = alone.out.parent.parent / name
    path = _config(folder)
    (folder / "out").mkdir()
    shutil.copy(alone.out / "start.pt", folder / "out")
    return path


def _torchrun(*words: str) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(HERE.parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *words], capture_output=True, text=True, timeout=560, check=False, cwd=root, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def two(alone: TrainConfig) -> TrainConfig:
    """The run of two processes, all of PLAN done."""
    path = _together(alone, "together")
    _torchrun(str(HERE / "two_processes.py"), str(path), json.dumps(PLAN))
    return TrainConfig.load(path)


def _rows(config: TrainConfig, name: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (config.out / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _state(config: TrainConfig, name: str) -> dict[str, Any]:
    state = Run(config.out, name).load()
    assert state is not None
    return state


def _numbers(tree: Any) -> list[torch.Tensor]:
    """All float tensors of a nested state, in its order."""
    if isinstance(tree, torch.Tensor):
        return [tree.double().flatten()] if tree.is_floating_point() else []
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for branch in branches for tensor in _numbers(branch)]


def _distances(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """L2 between two states of one stage: of weights, of their averages, of the optimizers' moments."""
    assert one["model"].keys() == other["model"].keys()
    parts = ("model", "ema", "optimizers")
    return {part: float((torch.cat(_numbers(one[part])) - torch.cat(_numbers(other[part]))).norm()) for part in parts}


def _assert_alike(one: TrainConfig, name: str, two: TrainConfig, theirs: str, allowed: Allowance) -> None:
    """Logs and states of two runs agree, and training moved the weights much further than they may differ."""
    for ours, other, apart in zip(_rows(one, name), _rows(two, theirs), allowed.rows, strict=True):
        assert ours.keys() == other.keys()
        for key, value in ours.items():
            summing = 256 * ROUNDING * abs(value)
            assert abs(other[key] - value) <= TIMES * apart[key] + summing + 2 * LOG_STEP, key
    ours, other = _state(one, name), _state(two, theirs)
    assert ours["step"] == other["step"] == 2
    for part, distance in _distances(ours, other).items():
        assert distance <= TIMES * allowed.parts[part], part
    start = _state(one, "start")["ema"]["values"]
    moved = torch.cat(_numbers([value - start.get(key, 0) for key, value in ours["model"].items()]))
    assert TIMES * allowed.parts["model"] < 0.1 * float(moved.norm())


def test_the_command_under_torchrun_trains_as_one_process(alone: TrainConfig, of_one: OfOne) -> None:
    path = _together(alone, "command")
    allowed = of_one("isolate", "isolate", {})
    _torchrun("-m", "service.cli", "train", "isolate", "--config", str(path))
    config = TrainConfig.load(path)
    _assert_alike(alone, "isolate", config, "isolate", allowed)
    assert not (config.out / "isolate").exists()
    assert (run_stage(config, "isolate", resume=True) / "model_index.json").exists()


@pytest.mark.parametrize("name", ["cfg", "expert", "muon"])
def test_stages_whose_noise_belongs_to_samples_equal_one_process(
    alone: TrainConfig, of_one: OfOne, two: TrainConfig, name: str
) -> None:
    """All weights by AdamW; a LoRA beside sharded weights; all by Muon, with validation and sheets on the way."""
    stage, _, changes, _, _ = next(row for row in PLAN if row[1] == name)
    _assert_alike(alone, name, two, name, of_one(stage, name, changes))
    if name == "muon":
        assert sum(key.startswith("held_out_") for key in _rows(two, name)[0]) == 8
        assert (two.out / "grids" / "tryon-2.png").exists() or (two.out / "grids" / "muon-2.png").exists()


def test_one_process_goes_on_where_two_stopped(of_one: OfOne, two: TrainConfig) -> None:
    table = replace(two.stage("cfg-distill"), **SMALL)
    run_stage(two, "cfg-distill", resume=True, name="cfg-handed-over", table=table)
    _assert_alike(two, "cfg", two, "cfg-handed-over", of_one("cfg-distill", "cfg", SMALL))


@pytest.mark.parametrize("name", ["nft", "dmd"])
def test_two_processes_that_were_interrupted_end_as_two_that_were_not(two: TrainConfig, name: str) -> None:
    assert _rows(two, name) == _rows(two, f"{name}-parts")
    assert len(_rows(two, name)) == 2
    assert (two.out / f"{name}.rank-0.txt").read_text() == (two.out / f"{name}-parts.rank-0.txt").read_text()
    start, end = _state(two, "start")["ema"]["values"], _state(two, name)
    assert any(not torch.equal(start[key], value) for key, value in end["model"].items())
    if name == "dmd":
        assert any(not torch.equal(start[f"{key}"], value) for key, value in end["fake"]["model"].items())


@pytest.mark.parametrize("name", sorted({row[1] for row in PLAN}))
def test_both_processes_hold_the_same(two: TrainConfig, name: str) -> None:
    first, second = ((two.out / f"{name}.rank-{rank}.txt").read_text() for rank in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["nft-lora", "cfg-lora", "dmd-lora", "expert"])
def test_loras_of_two_processes_are_written_once_and_whole(two: TrainConfig, name: str) -> None:
    lora = read_lora(two.out / name / "lora.safetensors")
    assert any(bool(layer.up.any()) for layer in lora.layers.values())
    assert {key.rpartition("/")[2] for key in _state(two, name)["model"]} == {"lora_A", "lora_B"}
