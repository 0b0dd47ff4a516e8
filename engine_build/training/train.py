"""`changeroom train STAGE --config FILE`: read the file, run the stage, leave a checkpoint folder.

`nano` runs its parts in order, each resumable: tokenizer, autoencoder, the flow-matching stages, export. The
other stages of the recipe are those of registry.py; each is a table of the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine_build.config import PRESETS
from engine_build.errors import RequestError
from engine_build.runtime.loading import pick_device
from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.evidence.run import run as run_evidence
from engine_build.training.loop.export import export
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.sharding import Place, processes
from engine_build.training.loop.tokenizer import train as train_tokenizer
from engine_build.training.nano import flow, vae
from engine_build.training.nano.grids import Grids
from engine_build.training.stages import registry
from engine_build.training.stages.stage_run import StageRun

NAMES = ("nano", *registry.STAGES, "evidence")


def train_nano(config: TrainConfig, resume: bool) -> Path:
    """All parts of nano; returns the checkpoint folder `out/checkpoint`.

    The stages are called vae, vae2 … and flow, flow2 …; each begins with the averages of the one before.
    """
    side = 2 ** len(config.vaes[0].channels)
    check_heights("flow", (one.height for one in config.flows), side)
    check_squares("flow", "shot", (one.shot for one in config.flows), side)
    tokenizer = train_tokenizer()
    autoencoder = vae.train_stages(config.vaes, config.out, resume)
    shape = replace(PRESETS["nano"], **config.model)
    encoder = Encoder(autoencoder)
    start: Path | None = None
    for number, one in enumerate(config.flows, start=1):
        name = "flow" if number == 1 else f"flow{number}"
        grids = Grids(config.out, one, encoder, tokenizer, config.steps)
        model = flow.train(
            one, shape, encoder, tokenizer, config.out, resume, stage=name, start_from=start, show=grids.write
        )
        start = config.out / f"{name}.pt"
    folder = config.out / "checkpoint"
    export(folder, model, autoencoder, tokenizer, config.flows[-1], config.steps)
    return folder


def run_stage(
    config: TrainConfig,
    stage: str,
    resume: bool,
    place: Place | None = None,
    stop_after: int | None = None,
    name: str | None = None,
    table: StageConfig | None = None,
) -> Path:
    """One stage of registry.py, under another `name` and with another `table` if given; returns what it leaves."""
    stage_run = StageRun(
        stage=name or stage,
        table=stage,
        config=table or config.stage(stage),
        setup=config.setup(pick_device(config.device)),
        place=place or Place(),
        resume=resume,
        tensorboard=config.tensorboard,
        stop_after=stop_after,
    )
    return registry.STAGES[stage].go(stage_run)


def main(stage: str, config: Path | None, resume: bool) -> Path:
    """Run a stage. Raises RequestError for an unknown one or a config that does not fit."""
    if stage not in NAMES:
        raise RequestError(f"there is no training stage {stage!r}; choose from {', '.join(NAMES)}")
    loaded = TrainConfig.load(config or DEFAULT_CONFIG)
    if loaded.threads:
        torch.set_num_threads(loaded.threads)
    with processes(pick_device(loaded.device)) as place:
        held = list(loaded.out.glob("*.pt")) if stage == "nano" else [loaded.out / f"{stage}.pt"]
        if not resume and place.first and any(path.exists() for path in held):
            raise RequestError(f"{loaded.out} holds an earlier run: pass --resume to go on, or choose another out")
        if stage == "nano":
            return train_nano(loaded, resume)
        if stage == "evidence":
            return run_evidence(loaded, run_stage)
        return run_stage(loaded, stage, resume, place)
