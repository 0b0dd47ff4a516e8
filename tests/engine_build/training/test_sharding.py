"""Two processes under torchrun train as one does: same losses, same weights, one state that either can resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import COMMON, write_config

from engine_build.training.run import Run
from engine_build.training.train import TrainConfig, run_stage

STAGES = ("isolate", "expert")
FULL = COMMON.replace("steps = 3", "steps = 2") + 'optimizer = "adamw"\n'


def _config(folder: Path) -> Path:
    """Without a stage to start from: both runs begin with the same random weights."""
    folder.mkdir()
    path = write_config(folder, common=FULL)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("start_from")]
    path.write_text("\n".join(kept).replace("report_samples = 2", "report_samples = 0"))
    return path


def _losses(out: Path, stage: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / f"{stage}.jsonl").read_text().splitlines()]


def _state(out: Path, stage: str) -> dict[str, Any]:
    state = Run(out, stage).load()
    assert state is not None
    return state


@pytest.mark.timeout(500)
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one(tmp_path: Path, stage: str) -> None:
    """Both kinds of training: all weights, sharded by FSDP2, and a LoRA beside sharded frozen weights."""
    alone, together = _config(tmp_path / "alone"), _config(tmp_path / "together")
    config = TrainConfig.load(alone)
    run_stage(config, stage, resume=False)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "service.cli", "train", stage, "--config", str(together)]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = config.out, tmp_path / "together" / "out"
    assert _losses(two, stage) == pytest.approx(_losses(one, stage), rel=2e-4)
    ours, theirs = _state(one, stage), _state(two, stage)
    assert ours["step"] == theirs["step"] == 2
    for part in ("model", "ema"):
        a, b = ((s[part] if part == "model" else s[part]["values"]) for s in (ours, theirs))
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(b[name], a[name], atol=2e-4, rtol=1e-2, msg=name)
    left = run_stage(TrainConfig.load(together), stage, resume=True)
    assert left.exists()
