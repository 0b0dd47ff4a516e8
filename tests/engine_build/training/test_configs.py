"""Every bundled configuration reads, and its stages name starting points, sizes and batches that go together."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import count_parameters

from engine_build.config import PRESETS
from engine_build.model.weights import locate
from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.loop.start_from import autoencoder_in
from engine_build.training.stages import registry

CONFIGS = sorted(DEFAULT_CONFIG.parent.glob("*.toml"))


def test_all_are_there() -> None:
    assert {path.stem for path in CONFIGS} >= {"nano", "pico", "klein-4b-lora", "klein-4b-full", "tstars-5b"}
    assert Encoder(autoencoder_in(locate("nano"))).token_pixels == _token_side("of nano")


def _token_side(text: str) -> int:
    """Pixels of a token: nano's autoencoder has three blocks, FLUX.2's four."""
    return 16 if "FLUX.2" in text else 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_bundled_configuration_reads_and_fits_together(path: Path) -> None:
    config, raw = TrainConfig.load(path), tomllib.loads(path.read_text())
    given = [name for name in registry.STAGES if name in raw]
    side = _token_side(path.read_text())
    check_heights("flow", (one.height for one in config.flows), side if "flow" in raw else 1)
    for name in given:
        table = config.stage(name)
        assert table.chunk % (table.batch or 1) == 0, name
        check_heights(name, (*getattr(table, "heights", ()), table.height), side)
        check_squares(name, "shot", (*getattr(table, "shots", ()), table.shot), side)
        start = table.start_from
        here = start in given or "/" in start
        assert here or (not start and name in (given[0], "packing")), f"{name} starts from {start!r}"
        if table.lora_rank:
            assert table.optimizer == "adamw"


def test_sizes_are_what_their_comments_say() -> None:
    pico = TrainConfig.load(next(path for path in CONFIGS if path.stem == "pico"))
    assert 1.4e6 < count_parameters(replace(PRESETS["nano"], **pico.model)) < 1.8e6
    tstars = TrainConfig.load(next(path for path in CONFIGS if path.stem == "tstars-5b"))
    shape = replace(PRESETS["nano"], **tstars.model)
    assert shape == PRESETS["tstars-5b"]
    assert count_parameters(shape) == pytest.approx(5.0e9, rel=0.01)


def test_flow_stages_of_nano_are_a_list_or_one(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[[flow]]\nsteps = 3\n[[flow]]\nsteps = 4\nfirst_seed = 7\n")
    config = TrainConfig.load(path)
    assert [one.steps for one in config.flows] == [3, 4] and config.flow.steps == 3
    assert config.flows[1].first_seed == 7
    path.write_text("[flow]\nsteps = 5\n")
    assert [one.steps for one in TrainConfig.load(path).flows] == [5]
