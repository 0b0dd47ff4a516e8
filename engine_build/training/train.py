"""`changeroom train STAGE --config FILE`: read the file, run the stage, leave a checkpoint folder.

`nano` runs its parts in order, each resumable: tokenizer, autoencoder, flow matching, export.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine_build.config import PRESETS, ModelConfig
from engine_build.errors import RequestError
from engine_build.training import flow, tokenizer, vae
from engine_build.training.export import export
from engine_build.training.grids import Grids
from engine_build.training.latents import Encoder

T = TypeVar("T")
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "nano.toml"


@dataclass(frozen=True)
class TrainConfig:
    """One config file: the run's folder and a table for each part."""

    out: Path
    threads: int
    vae: vae.VaeConfig
    flow: flow.FlowConfig
    model: dict[str, int]
    steps: int

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Raises RequestError naming the file and the key for anything that does not fit."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RequestError(f"{path} does not exist; start from {DEFAULT_CONFIG}") from error
        except tomllib.TOMLDecodeError as error:
            raise RequestError(f"{path} is not valid TOML: {error}") from error
        _known(path, "", raw, {"out", "threads", "vae", "flow", "model", "checkpoint"})
        _known(path, "[model] ", raw.get("model", {}), {f.name for f in fields(ModelConfig)})
        _known(path, "[checkpoint] ", raw.get("checkpoint", {}), {"default_steps"})
        return cls(
            out=Path(raw.get("out", "runs/nano")),
            threads=int(raw.get("threads", 0)),
            vae=_table(vae.VaeConfig, "[vae] ", raw.get("vae", {}), path),
            flow=_table(flow.FlowConfig, "[flow] ", raw.get("flow", {}), path),
            model=dict(raw.get("model", {})),
            steps=int(raw.get("checkpoint", {}).get("default_steps", 4)),
        )


def _known(path: Path, table: str, values: dict[str, Any], known: set[str]) -> None:
    if not isinstance(values, dict):
        raise RequestError(f"{path} {table}must be a table, not {values!r}")
    unknown = sorted(set(values) - known)
    if unknown:
        raise RequestError(f"{path} {table}has unknown keys: {', '.join(unknown)}")


def _table(kind: type[T], table: str, values: dict[str, Any], path: Path) -> T:
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    _known(path, table, values, set(defaults))
    for name, value in values.items():
        wanted = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        if not isinstance(tuple(value) if isinstance(value, list) else value, wanted):
            raise RequestError(f"{path} {table}{name} cannot be {value!r}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def train_nano(config: TrainConfig, resume: bool) -> Path:
    """All parts of nano; returns the checkpoint folder `out/checkpoint`."""
    if config.threads:
        torch.set_num_threads(config.threads)
    words = tokenizer.train()
    autoencoder = vae.train(config.vae, config.out, resume)
    shape = replace(PRESETS["nano"], **config.model)
    encoder = Encoder(autoencoder)
    grids = Grids(config.out, config.flow, encoder, words, config.steps)
    model = flow.train(config.flow, shape, encoder, words, config.out, resume, show=grids.write)
    folder = config.out / "checkpoint"
    export(folder, model, autoencoder, words, config.flow, config.steps)
    return folder


STAGES: dict[str, Callable[[TrainConfig, bool], Path]] = {"nano": train_nano}


def main(stage: str, config: Path | None, resume: bool) -> Path:
    """Run a stage. Raises RequestError for an unknown one or a config that does not fit."""
    if stage not in STAGES:
        raise RequestError(f"there is no training stage {stage!r}; choose from {', '.join(STAGES)}")
    loaded = TrainConfig.load(config or DEFAULT_CONFIG)
    if not resume and any(loaded.out.glob("*.pt")):
        raise RequestError(f"{loaded.out} holds an earlier run: pass --resume to go on, or choose another out")
    return STAGES[stage](loaded, resume)
