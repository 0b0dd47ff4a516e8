"""bfloat16 only where it is faster: measured, kept for the run, and never asked where the file does not want it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recipe import COMMON, write_config

from engine_build.training.config import TrainConfig
from engine_build.training.loop import precision
from engine_build.training.loop.precision import bf16_pays, seconds_of_a_layer
from engine_build.training.stages import registry
from engine_build.training.stages.stage_run import StageRun
from engine_build.training.train import run_stage

CPU = torch.device("cpu")


def test_a_measurement_ends_and_tells_both_times() -> None:
    whole, half = seconds_of_a_layer(0.2)
    assert 0 < whole < 1 and 0 < half < 1


@pytest.mark.parametrize(("times", "pays"), [((2e-3, 1e-3), True), ((1e-3, 2e-3), False)])
def test_what_was_measured_decides_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], pays: bool
) -> None:
    monkeypatch.setattr(precision, "seconds_of_a_layer", lambda: times)
    assert bf16_pays(CPU, tmp_path) is pays
    assert json.loads((tmp_path / "precision.json").read_text())["float32_ms"] == 1e3 * times[0]
    monkeypatch.setattr(precision, "seconds_of_a_layer", lambda: times[::-1])
    assert bf16_pays(CPU, tmp_path) is pays, "a run that goes on keeps its precision"


def test_a_gpu_is_not_measured(tmp_path: Path) -> None:
    assert bf16_pays(torch.device("cuda"), tmp_path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_stage_runs_in_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool, pays: bool
) -> None:
    monkeypatch.setattr(precision, "seconds_of_a_layer", lambda: (2.0, 1.0) if pays else (1.0, 2.0))
    seen: list[bool] = []
    stage = registry.STAGES["pretrain"]

    def noted(stage_run: StageRun) -> Path:
        seen.append(stage_run.config.bf16)
        return stage_run.setup.out

    monkeypatch.setitem(registry.STAGES, "pretrain", registry.Stage(stage.config, noted))
    config = TrainConfig.load(write_config(tmp_path, common=COMMON + f"bf16 = {str(wanted).lower()}\n"))
    run_stage(config, "pretrain", resume=False)
    assert seen == [wanted and pays]
    assert (config.out / "precision.json").exists() is wanted
