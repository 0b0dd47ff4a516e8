"""Weights kept in the repository: a run without a folder goes on from them, at their step, rates rising again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe import COMMON, write_config
from safetensors import safe_open

from engine_build.errors import CheckpointError, RequestError
from engine_build.training import handing_on
from engine_build.training.config import TrainConfig
from engine_build.training.loop.kept import FACTS, WEIGHTS, Kept
from engine_build.training.loop.run import read_state, warm_then_decay
from engine_build.training.train import Asked, main, run_stage

STEPS = COMMON.replace("steps = 3", "steps = 6")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A file whose run took all of pretrain and two steps of tryon, and keeps weights in `kept`."""
    path = write_config(tmp_path, common=STEPS)
    path.write_text(f'kept = "{tmp_path / "kept"}"\n' + path.read_text().split("[isolate]")[0])
    config = TrainConfig.load(path)
    run_stage(config, "pretrain", resume=False)
    run_stage(config, "resolution", resume=False)
    run_stage(config, "tryon", resume=False, stop_after=2)
    return path


def _steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "tryon.jsonl").read_text().splitlines()]


def test_what_is_kept_is_the_newest_stages_average_in_half_the_bytes(begun: Path) -> None:
    config = TrainConfig.load(begun)
    folder = main("keep", begun, Asked())
    assert Kept.read(folder) == Kept("tryon", 2, "joint")
    values = read_state(config.out / "tryon.pt")["ema"]["values"]
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(values)
        for name, value in values.items():
            assert torch.equal(file.get_tensor(name), value.half())


def test_a_run_that_lost_its_folder_goes_on_from_what_was_kept(begun: Path, tmp_path: Path) -> None:
    main("keep", begun, Asked())
    config = TrainConfig.load(begun)
    main("recipe", begun, Asked(resume=True, out=tmp_path / "elsewhere"))
    assert _steps(tmp_path / "elsewhere") == [2, 3, 4, 5]
    assert not list((tmp_path / "elsewhere").glob("pretrain*")), "a stage before the kept one ran again"
    before, after = (read_state(out / "tryon.pt") for out in (config.out, tmp_path / "elsewhere"))
    assert after["step"] == 6 and after["ema"]["updates"] == 4
    assert before["ema"]["values"].keys() == after["ema"]["values"].keys()


def test_without_resume_a_stage_begins_from_nothing(begun: Path, tmp_path: Path) -> None:
    main("keep", begun, Asked())
    config = replace(TrainConfig.load(begun), out=tmp_path / "anew")
    run_stage(config, "pretrain", resume=False, stop_after=1)
    assert read_state(config.out / "pretrain.pt")["step"] == 1
    with pytest.raises(CheckpointError, match="resolution is neither"):
        run_stage(config, "tryon", resume=False)


def test_a_state_of_its_own_goes_before_what_was_kept(begun: Path) -> None:
    main("keep", begun, Asked())
    config = TrainConfig.load(begun)
    run_stage(config, "tryon", resume=True, stop_after=2)
    assert read_state(config.out / "tryon.pt")["ema"]["updates"] == 4
    assert _steps(config.out) == [0, 1, 2, 3]


def test_a_stage_starts_from_the_kept_weights_of_the_one_it_names(begun: Path, tmp_path: Path) -> None:
    config = TrainConfig.load(begun)
    run_stage(config, "tryon", resume=True)
    main("keep", begun, Asked())
    there = replace(config, out=tmp_path / "elsewhere")
    parts = there.setup(torch.device("cpu")).parts(replace(config.stage("isolate"), start_from="tryon"))
    kept = read_state(config.out / "tryon.pt")["ema"]["values"]
    for name, value in parts.network.state_dict().items():
        assert torch.equal(value, kept[name].half().float()), name


def test_rates_rise_again_after_a_beginning_in_the_middle() -> None:
    assert warm_then_decay(500, 1000, 10, 100, updates=0) == pytest.approx(0.1)
    assert warm_then_decay(509, 1000, 10, 100, updates=9) == 1.0
    assert warm_then_decay(999, 1000, 10, 100, updates=499) == pytest.approx(0.01)
    assert [warm_then_decay(s, 100, 10, 20) for s in range(100)] == [
        warm_then_decay(s, 100, 10, 20, updates=s) for s in range(100)
    ]


def test_what_cannot_be_kept_or_read_is_told(begun: Path, tmp_path: Path) -> None:
    config = TrainConfig.load(begun)
    with pytest.raises(RequestError, match="names no folder"):
        handing_on.keep(replace(config, kept=None))
    with pytest.raises(RequestError, match="train first"):
        handing_on.keep(replace(config, out=tmp_path / "nothing"))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / FACTS).write_text('{"stage": "tryon"}')
    with pytest.raises(RequestError, match="train keep"):
        Kept.read(tmp_path / "kept")
