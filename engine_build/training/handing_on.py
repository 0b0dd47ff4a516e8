"""What a run has reached, handed on: `keep` to the repository, `export` to the service, if it is better.

Both take the averages of the newest stage that left a state.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine_build.backends import load_engine
from engine_build.errors import RequestError
from engine_build.model.weights import NANO
from engine_build.runtime.loading import pick_device
from engine_build.training.config import TrainConfig
from engine_build.training.loop import kept
from engine_build.training.loop.run import has_state, read_state
from engine_build.training.measure import classifier
from engine_build.training.measure.evaluate import evaluate

logger = logging.getLogger(__name__)
LARGEST = 24 << 20
"""Bytes of a bundled checkpoint: whoever installs the package downloads it."""
FIGURES = (
    "overall",
    "garment_psnr",
    "background_psnr",
    "head_psnr",
    "retrieval_at_16",
    "omission_rate",
    "layering_accuracy",
    "attribute_accuracy",
    "sharpness",
    "seconds_per_image",
)


def newest(config: TrainConfig) -> str:
    """The last of the recipe's stages that left a state. Raises RequestError when none did."""
    left = [name for name in config.recipe if has_state(config.out / f"{name}.pt")]
    if not left:
        raise RequestError(f"{config.out} holds no state of {', '.join(config.recipe) or 'any stage'}: train first")
    return left[-1]


def keep(config: TrainConfig) -> Path:
    """Write the newest stage's averages to the folder that the file calls `kept`. Raises RequestError without one."""
    if config.kept is None:
        raise RequestError('the file names no folder to keep weights in: add kept = "FOLDER" on top')
    stage = newest(config)
    written = kept.keep(config.kept, stage, read_state(config.out / f"{stage}.pt"))
    logger.info("kept %s at step %d", written.stage, written.step)
    return config.kept


def export(config: TrainConfig, samples: int, to: Path = NANO) -> Path:
    """Bundle the newest stage's averages in fp16, if they judge better than what `to` holds; returns `to`.

    Both are judged on the same `samples` held-out scenes, drawn at the new one's size: smaller pictures are enlarged.
    Raises RequestError, naming both figures, when the new one is not better, or larger than LARGEST.
    """
    stage = newest(config)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "checkpoint"
        config.setup(pick_device(config.device)).parts(replace(config.stage(stage), start_from=stage, loras=())).write(
            folder
        )
        halve(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > LARGEST:
            raise RequestError(f"{stage} takes {size >> 20} MiB, a bundled checkpoint {LARGEST >> 20} at most")
        if (to / "model_index.json").exists():
            compare(stage, folder, to, samples)
        replace_folder(folder, to)
    return to


def compare(stage: str, new: Path, old: Path, samples: int) -> None:
    """Raises RequestError when the new checkpoint is not better overall; logs both either way."""
    engine, judge = load_engine(str(new)), classifier.load()
    height = engine.describe().default_size[1]
    reports = [evaluate(one, judge, samples, None, height=height) for one in (engine, load_engine(str(old)))]
    for figure in FIGURES:
        logger.info("%-20s %10s now %10s", figure, *(report[figure] for report in reports))
    mine, theirs = (_number(report["overall"]) for report in reports)
    if mine <= theirs:
        raise RequestError(
            f"{stage} is not better: overall {mine:.3f} on {samples} scenes at height {height}, the bundled one "
            f"{theirs:.3f}; train on, then export again"
        )


def halve(folder: Path) -> None:
    """Every safetensors file of a folder again with its numbers in fp16; loading casts them."""
    for path in folder.rglob("*.safetensors"):
        tensors = {
            name: value.to(torch.float16) if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)


def replace_folder(new: Path, old: Path) -> None:
    """Put a folder in another's place; whoever is interrupted finds one of them whole."""
    beside, before = old.with_name(f".{old.name}-new"), old.with_name(f".{old.name}-before")
    for left in (beside, before):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(new, beside)
    if old.exists():
        old.rename(before)
    beside.rename(old)
    shutil.rmtree(before, ignore_errors=True)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
