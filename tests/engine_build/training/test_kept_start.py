"""What is kept of the next picture fits its configuration: a run without a folder can go on from it at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.loop.kept import Kept

CONFIG = DEFAULT_CONFIG.parent / "nano-192.toml"


def test_a_run_without_a_folder_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    config = replace(TrainConfig.load(CONFIG), out=tmp_path)
    kept = Kept.read(config.kept)
    assert kept is not None and kept.stage in config.recipe and kept.step <= config.stage(kept.stage).steps
    parts = config.setup(torch.device("cpu")).parts(replace(config.stage(kept.stage), start_from=kept.stage))
    assert parts.dit.config.width == 192 and parts.encoder.token_pixels == 16
    assert all(bool(torch.isfinite(value).all()) for value in parts.network.state_dict().values())
    sizes = [path.stat().st_size for path in CONFIG.parents[1].joinpath("starts").rglob("*") if path.is_file()]
    assert sum(sizes) <= 24 << 20, "weights in the repository"
