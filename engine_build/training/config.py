"""The configuration file of `changeroom train`: what may stand in it, and where the stages of a run work by it.

Every table is a frozen dataclass with a default for every key; anything else in the file is refused by name.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLFlux2
from transformers import PreTrainedTokenizerFast

from engine_build.config import PRESETS, ModelConfig
from engine_build.errors import RequestError
from engine_build.model.weights import locate
from engine_build.training.loop import tokenizer
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.nano_model import FlowConfig
from engine_build.training.loop.start_from import RunSetup, autoencoder_in
from engine_build.training.nano import vae
from engine_build.training.stages import registry

T = TypeVar("T")
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "nano.toml"
RUN_KEYS = {
    "out",
    "threads",
    "device",
    "tensorboard",
    "autoencoder_from",
    "tokenizer_edits",
    "kept",
    "largest_file_mib",
}
TABLES = {"vae", "flow", "model", "checkpoint", "evidence"}


@dataclass(frozen=True)
class EvidenceConfig:
    """`stages` in order, each starting as its table says; students of each number in `student_steps` at the end.

    Stages in `brief` are measured at the full schedule alone, those in `guided` with guidance too. `samples` held-out
    scenes with garments as in `mix`; `guidance` is the teacher's w, `focus` as in cfg_distill.py.
    `baseline` names a checkpoint to measure beside the stages, as stage `start`. With a `student_share` below 1 each
    student is measured a second time as `dmd-N-part`, its weights only that share of the way from its start.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    stages: tuple[str, ...] = ("pretrain", "resolution", "tryon", "isolate", "nft", "cfg-distill")
    student_steps: tuple[int, ...] = (4, 2, 1)
    student_share: float = 1.0
    brief: tuple[str, ...] = ("pretrain", "resolution")
    guided: tuple[str, ...] = ("nft",)
    samples: int = 128
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    teacher_steps: int = 32
    cut_steps: tuple[int, ...] = (4, 2, 1)
    guidance: float = 2.0
    focus: bool = False
    baseline: str = ""
    diversity_repeats: int = 3
    judge: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """One config file: the run's folder and a table for each part.

    `vaes` and `flows` are nano's stages in order, from `[vae]` or `[[vae]]`, `[flow]` or `[[flow]]`.
    `autoencoder_from` names a checkpoint (a folder, or `nano`) whose autoencoder the run's networks use instead of
    training their own, `tokenizer_edits` how many instructions of general edits their tokenizer learns from. `kept` is
    a folder in which `keep` leaves the newest stage's weights, and from which a run goes on that lost its own folder.
    Above 0 `largest_file_mib` is the size of the largest file a run leaves: states and weights are written in pieces.
    `tables` holds the stages' own configurations; a stage without a table has its defaults.
    """

    out: Path
    threads: int
    vaes: tuple[vae.VaeConfig, ...]
    flows: tuple[FlowConfig, ...]
    model: dict[str, Any]
    steps: int
    device: str = "auto"
    tensorboard: bool = False
    autoencoder_from: str = ""
    tokenizer_edits: int = 0
    kept: Path | None = None
    largest_file_mib: int = 0
    tables: dict[str, StageConfig] | None = None
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)

    @property
    def flow(self) -> FlowConfig:
        """The first flow stage."""
        return self.flows[0]

    @property
    def recipe(self) -> tuple[str, ...]:
        """The stages that have a table here and lead to a checkpoint, in the recipe's order."""
        return tuple(name for name in registry.RECIPE if name in (self.tables or {}))

    def stage(self, name: str) -> StageConfig:
        """The table of a stage, or its defaults."""
        return (self.tables or {}).get(name) or registry.STAGES[name].config()

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Raises RequestError naming the file and the key for anything that does not fit."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RequestError(f"{path} does not exist; start from {DEFAULT_CONFIG}") from error
        except tomllib.TOMLDecodeError as error:
            raise RequestError(f"{path} is not valid TOML: {error}") from error
        _known(path, "", raw, RUN_KEYS | TABLES | set(registry.STAGES))
        _known(path, "[model] ", raw.get("model", {}), {f.name for f in fields(ModelConfig)})
        _known(path, "[checkpoint] ", raw.get("checkpoint", {}), {"default_steps"})
        listed = {name: raw.get(name, {}) for name in ("vae", "flow")}
        listed = {name: given if isinstance(given, list) else [given] for name, given in listed.items()}
        return cls(
            out=Path(raw.get("out", "runs/nano")),
            threads=int(raw.get("threads", 0)),
            vaes=tuple(_table(vae.VaeConfig, "[vae] ", one, path) for one in listed["vae"]),
            flows=tuple(_table(FlowConfig, "[flow] ", one, path) for one in listed["flow"]),
            model={name: tuple(v) if isinstance(v, list) else v for name, v in raw.get("model", {}).items()},
            steps=int(raw.get("checkpoint", {}).get("default_steps", 4)),
            device=str(raw.get("device", "auto")),
            tensorboard=bool(raw.get("tensorboard", False)),
            autoencoder_from=str(raw.get("autoencoder_from", "")),
            tokenizer_edits=int(raw.get("tokenizer_edits", 0)),
            kept=Path(raw["kept"]) if raw.get("kept") else None,
            largest_file_mib=int(raw.get("largest_file_mib", 0)),
            tables={
                name: _table(stage.config, f"[{name}] ", raw[name], path)
                for name, stage in registry.STAGES.items()
                if name in raw
            },
            evidence=_table(EvidenceConfig, "[evidence] ", raw.get("evidence", {}), path),
        )

    def setup(self, device: torch.device) -> RunSetup:
        """Where the stages of this file work."""
        return RunSetup(
            out=self.out,
            shape=replace(PRESETS["nano"], **self.model),
            device=device,
            tokenizer=lambda: _tokenizer(self.tokenizer_edits),
            autoencoder=self._autoencoder,
            default_steps=self.steps,
            kept=self.kept,
            largest_file=self.largest_file_mib << 20,
        )

    def _autoencoder(self) -> AutoencoderKLFlux2:
        if self.autoencoder_from:
            return autoencoder_in(locate(self.autoencoder_from))
        return vae.train_stages(self.vaes, self.out, resume=True)


@lru_cache(maxsize=1)
def _tokenizer(edits: int) -> PreTrainedTokenizerFast:
    """Trained once a process: it is the same every time."""
    return tokenizer.train(edits=edits)


def _known(path: Path, table: str, values: dict[str, Any], known: set[str]) -> None:
    if not isinstance(values, dict):
        raise RequestError(f"{path} {table}must be a table, not {values!r}")
    unknown = sorted(set(values) - known)
    if unknown:
        raise RequestError(f"{path} {table}has unknown keys: {', '.join(unknown)}")


def _table(kind: type[T], table: str, values: dict[str, Any], path: Path) -> T:
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]
    _known(path, table, values, set(defaults))
    for name, value in values.items():
        wanted = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        if not isinstance(tuple(value) if isinstance(value, list) else value, wanted):
            raise RequestError(f"{path} {table}{name} cannot be {value!r}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
