"""Sizes that do not divide into whole tokens are refused before anything is trained, with those that would."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from recipe import write_config

from engine_build.errors import RequestError
from engine_build.training.config import TrainConfig
from engine_build.training.data.sizes import check_heights, check_squares, width_of
from engine_build.training.stages import registry
from engine_build.training.train import Asked, main, run_stage


def test_what_is_refused_and_what_is_named_instead() -> None:
    check_heights("a", (32, 64, 96), 8)
    check_squares("a", "shot", (8, 40), 8)
    for height, side, said in ((48, 8, "32 and 64"), (1000, 16, "960 and 1024"), (20, 8, "32 is the smallest")):
        with pytest.raises(RequestError, match=rf"\[tryon\] height {height} .*{width_of(height)}x{height}.*{said}"):
            check_heights("tryon", (64, height), side)
    with pytest.raises(RequestError, match=r"\[tryon\] shot 20 .*8x8; the nearest that do are 16 and 24"):
        check_squares("tryon", "shot", (8, 20), 8)
    with pytest.raises(RequestError, match="8 is the smallest"):
        check_squares("tryon", "shot", (0,), 8)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_what_is_named_fits_and_nothing_between_does(side: int) -> None:
    for height in range(1, 20 * side):
        try:
            check_heights("a", (height,), side)
        except RequestError as error:
            named = [int(n) for n in re.findall(r"\d+", str(error).split(";")[1])]
            check_heights("a", named, side)
            below, above = named if len(named) == 2 else (0, *named)
            assert below < height < above
            between = [h for h in range(below + 1, above) if h % side == 0 and width_of(h) % side == 0]
            assert not between


@pytest.mark.parametrize("stage", list(registry.STAGES))
def test_every_stage_refuses_sizes_by_the_name_of_its_table(tmp_path: Path, stage: str) -> None:
    config = TrainConfig.load(write_config(tmp_path))
    table = replace(config.stage(stage), start_from="")
    with pytest.raises(RequestError, match=rf"\[{stage}\] height 48 makes pictures of 36x48.*are 32 and 64"):
        run_stage(config, stage, resume=False, name="other", table=replace(table, height=48))
    with pytest.raises(RequestError, match=rf"\[{stage}\] shot 20 does not divide"):
        run_stage(config, stage, resume=False, name="other", table=replace(table, shot=20))
    assert not list(config.out.glob("*.pt"))


def test_each_size_of_a_stage_that_has_several_is_looked_at(tmp_path: Path) -> None:
    config = TrainConfig.load(write_config(tmp_path))
    for stage in ("resolution", "packing"):
        table = replace(config.stage(stage), start_from="", heights=(64, 48))
        with pytest.raises(RequestError, match=rf"\[{stage}\] height 48 "):
            run_stage(config, stage, resume=False, table=table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[[flow]]\nheight = 64\n[[flow]]\nheight = 72", r"\[flow\] height 72 "),
        ("[flow]\nheight = 64\nshot = 20", r"\[flow\] shot 20 "),
        ("[vae]\ncrop = 20", r"\[vae\] crop 20 "),
        ("[vae]\ncrop = 0\nheights = [48]", r"\[vae\] height 48 "),
        ("[vae]\ncrop = 0\nshot = 20", r"\[vae\] shot 20 "),
    ],
)
def test_nano_refuses_them_before_its_autoencoder_is_trained(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "nano.toml"
    path.write_text(f'out = "{tmp_path / "out"}"\n{table}\n')
    with pytest.raises(RequestError, match=said):
        main("nano", path, Asked())
    assert not list(tmp_path.rglob("*.pt"))
