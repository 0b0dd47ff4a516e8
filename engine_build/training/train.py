"""`changeroom train STAGE --config FILE`: read the file, run the stage, leave a checkpoint folder.

`recipe` runs every stage that has a table in the file, in the recipe's order, each from where it stands. `nano` runs
the parts of nano's own tables: tokenizer, autoencoder, the flow-matching stages, export. `keep` and `export` hand on
what a run has reached: to the repository, and to the service. The stages themselves are those of registry.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine_build.config import PRESETS
from engine_build.errors import RequestError
from engine_build.runtime.loading import pick_device
from engine_build.training import handing_on
from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.evidence.run import run as run_evidence
from engine_build.training.loop.export import export
from engine_build.training.loop.kept import Kept
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.precision import bf16_pays
from engine_build.training.loop.run import has_state, steps_taken
from engine_build.training.loop.sharding import Place, processes
from engine_build.training.loop.tokenizer import train as train_tokenizer
from engine_build.training.nano import flow, vae
from engine_build.training.nano.grids import Grids
from engine_build.training.stages import registry
from engine_build.training.stages.stage_run import StageRun

NAMES = ("recipe", "nano", *registry.STAGES, "evidence", "keep", "export")


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the stage: another folder than the file's, minutes to work, samples to judge.

    `minutes` None works to the end. `samples` is for `export` alone.
    """

    resume: bool = False
    out: Path | None = None
    minutes: float | None = None
    samples: int = 200

    @property
    def until(self) -> float | None:
        """The end, a time of time.monotonic()."""
        return None if self.minutes is None else time.monotonic() + 60 * self.minutes


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


def train_recipe(config: TrainConfig, place: Place, until: float | None = None) -> Path:
    """Every stage of the file that is not done yet; returns what the last one reached left.

    Raises RequestError for a file without a stage.
    """
    names = config.recipe
    if not names:
        raise RequestError(f"the file has no table of a stage; the recipe's are {', '.join(registry.RECIPE)}")
    kept = Kept.read(config.kept)
    later = kept.stage if kept and not any(has_state(config.out / f"{name}.pt") for name in names) else names[0]
    begin = names.index(later) if later in names else 0
    left = config.out
    for name in names[begin:]:
        left = config.out / name / "checkpoint"
        if _done(config, name):
            continue
        left = run_stage(config, name, resume=True, place=place, until=until)
        if not _done(config, name):
            break
    return left


def _done(config: TrainConfig, name: str) -> bool:
    return steps_taken(config.out / f"{name}.pt") >= config.stage(name).steps


def run_stage(
    config: TrainConfig,
    stage: str,
    resume: bool,
    place: Place | None = None,
    stop_after: int | None = None,
    name: str | None = None,
    table: StageConfig | None = None,
    until: float | None = None,
) -> Path:
    """One stage of registry.py, under another `name` and with another `table` if given; returns what it leaves."""
    setup, told = config.setup(pick_device(config.device)), table or config.stage(stage)
    stage_run = StageRun(
        stage=name or stage,
        table=stage,
        config=replace(told, bf16=told.bf16 and bf16_pays(setup.device, config.out)),
        setup=setup,
        place=place or Place(),
        resume=resume,
        tensorboard=config.tensorboard,
        stop_after=stop_after,
        until=until,
    )
    return registry.STAGES[stage].go(stage_run)


def main(stage: str, config: Path | None, asked: Asked) -> Path:
    """Run a stage. Raises RequestError for an unknown one or a config that does not fit."""
    if stage not in NAMES:
        raise RequestError(f"there is no training stage {stage!r}; choose from {', '.join(NAMES)}")
    until = asked.until
    loaded = TrainConfig.load(config or DEFAULT_CONFIG)
    loaded = loaded if asked.out is None else replace(loaded, out=asked.out)
    if asked.minutes is not None and stage in ("nano", "evidence", "keep", "export", "merge", "packing"):
        raise RequestError(f"--minutes is for the stages of the recipe, not for {stage}")
    if loaded.threads:
        torch.set_num_threads(loaded.threads)
    if stage == "keep":
        return handing_on.keep(loaded)
    if stage == "export":
        return handing_on.export(loaded, asked.samples)
    with processes(pick_device(loaded.device)) as place:
        names = {"nano": ("vae", "flow"), "recipe": loaded.recipe}.get(stage, (stage,))
        if not asked.resume and place.first and any(has_state(loaded.out / f"{name}.pt") for name in names):
            raise RequestError(f"{loaded.out} holds an earlier run: pass --resume to go on, or choose another out")
        if stage == "nano":
            return train_nano(loaded, asked.resume)
        if stage == "recipe":
            return train_recipe(loaded, place, until)
        if stage == "evidence":
            return run_evidence(loaded, run_stage)
        return run_stage(loaded, stage, asked.resume, place, until=until)
