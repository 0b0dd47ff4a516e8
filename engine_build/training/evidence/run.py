"""`changeroom train evidence`: the whole recipe for several seeds, every stage measured in every way of sampling.

Runs for hours in the background and goes on where it was interrupted: a stage resumes from its state, a
measurement that is on disk is not made again. Leaves `evidence.json`, means over seeds with their standard
errors, and plots, in the run's folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine_build.runtime.loading import pick_device
from engine_build.training.config import EvidenceConfig, TrainConfig
from engine_build.training.evidence import plots
from engine_build.training.evidence.comparisons import Measured, compare, figure_of, spread
from engine_build.training.loop.run import read_state, steps_taken
from engine_build.training.loop.start_from import NetworkParts
from engine_build.training.measure import classifier
from engine_build.training.measure.measures import HeldOut, Way, assess
from engine_build.training.stages import registry
from engine_build.training.stages.merging import averages, merged

logger = logging.getLogger(__name__)
FIGURES = (
    "identity",
    "garment_fidelity",
    "background",
    "physics",
    "overall",
    "omission_rate",
    "attribute_accuracy",
    "attribute_accuracy_truth",
    "layering_accuracy",
    "retrieval_at_16",
    "garment_psnr",
    "sharpness",
    "kid",
    "diversity",
    "pattern_rare",
    "pattern_common",
    "seconds_per_image",
)


def run(config: TrainConfig, train_stage: Callable[..., Path]) -> Path:
    """Everything that is still missing; returns the path of evidence.json."""
    e = config.evidence
    for seed in e.seeds:
        mine = _seeded(config, seed)
        if e.baseline:
            _measure(mine, "start", ways(e, "start"), partial(_baseline, mine))
        for name in e.stages:
            if not _finished(mine, name):
                train_stage(mine, name, resume=True)
            _measure_stage(mine, name, name, ways(e, name))
        for steps in e.student_steps:
            name = f"dmd-{steps}"
            table = replace(mine.stage("dmd"), student_steps=steps)
            if not _finished(mine, name, table.steps):
                train_stage(mine, "dmd", resume=True, name=name, table=table)
            _measure_stage(mine, name, "dmd", [Way(steps)])
            if e.student_share < 1:
                _measure(mine, f"{name}-part", [Way(steps)], partial(_part, mine, name))
        _write(config)
    return _write(config)


def ways(e: EvidenceConfig, stage: str) -> list[Way]:
    """The full schedule, with guidance or without, and the control: the same network cut to a few steps."""
    full = [Way(e.teacher_steps)]
    if stage in e.guided:
        full.append(Way(e.teacher_steps, e.guidance, e.focus))
    return full if stage in e.brief else [*full, *(Way(steps) for steps in e.cut_steps)]


def label(way: Way) -> str:
    """A way's name in files and figures: `32`, `32-cfg`, `4`."""
    return f"{way.steps}" if way.guidance == 1.0 else f"{way.steps}-cfg"


def measured(out: Path, seeds: tuple[int, ...]) -> dict[str, dict[int, dict[str, Any]]]:
    """What is on disk by stage and way, then by seed: `{"nft/32": {0: {"overall": ...}}}`."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in seeds:
        for path in sorted((out / f"seed-{seed}" / "measured").glob("*.json")):
            rows.setdefault(path.stem.replace("@", "/"), {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return dict(sorted(rows.items()))


def collected(found: Measured) -> dict[str, dict[str, Any]]:
    """Mean over seeds and standard error of every figure by stage and way: `{"nft/32": {"overall": {...}}}`."""
    result = {}
    for name, by_seed in found.items():
        rows = list(by_seed.values())
        figures: dict[str, Any] = {"seeds": len(rows), "nfe": rows[0]["nfe"], "samples": rows[0]["samples"]}
        for figure in FIGURES:
            values = [value for row in rows if (value := figure_of(row, figure)) is not None]
            if values:
                figures[figure] = spread(values)
        result[name] = figures
    return result


def _seeded(config: TrainConfig, seed: int) -> TrainConfig:
    """The run of one seed: its own folder, its own chance, its own training scenes."""
    tables = {
        name: replace(config.stage(name), seed=seed, first_seed=config.stage(name).first_seed + seed * 1_000_000)
        for name in registry.STAGES
    }
    return replace(config, out=config.out / f"seed-{seed}", tables=tables)


def _finished(config: TrainConfig, name: str, steps: int | None = None) -> bool:
    """Whether a stage has taken its last step and left its checkpoint or LoRA."""
    wanted = steps if steps is not None else config.stage(name).steps
    left = [config.out / name / "checkpoint" / "model_index.json", config.out / name / "lora.safetensors"]
    return any(path.exists() for path in left) and steps_taken(config.out / f"{name}.pt") >= wanted


def _measure_stage(config: TrainConfig, name: str, table: str, some: list[Way]) -> None:
    _measure(config, name, some, partial(trained, config, name, config.stage(table)))


def _measure(config: TrainConfig, name: str, some: list[Way], network: Callable[[], NetworkParts]) -> None:
    """The ways not measured yet; the noise pictures start from is the seed's own."""
    e = config.evidence
    missing = [(way, _measured(config, name, way)) for way in some if not _measured(config, name, way).exists()]
    if not missing:
        return
    parts = network()
    height, shot = _size(config)
    held = HeldOut.make(parts, height, shot, e.samples, e.mix)
    judge = classifier.load(Path(e.judge)) if e.judge else classifier.load()
    tryon = config.stage("tryon")
    for way, path in missing:
        figures = assess(parts, held, way, judge, tryon.seed, tryon.rare, repeats=e.diversity_repeats)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        logger.info("%s %s %s", config.out, path.stem, figures["overall"])


def trained(config: TrainConfig, name: str, c: Any) -> NetworkParts:
    """The averaged weights a stage of the run left, in the reference attention it was trained with."""
    setup = config.setup(pick_device(config.device))
    state = read_state(config.out / f"{name}.pt")["ema"]["values"]
    if any(key.startswith("dit.") for key in state):
        return setup.parts(replace(c, start_from=name, loras=()))
    lora = str(config.out / name / "lora.safetensors")
    return setup.parts(replace(c, loras=(*c.loras, lora)))


def _part(config: TrainConfig, name: str) -> NetworkParts:
    """A student of all weights, `student_share` of the way from where it started."""
    parts = config.setup(pick_device(config.device)).parts(config.stage("dmd"))
    student = averages(config.out, name)
    parts.network.load_state_dict(merged(parts.network.state_dict(), [student], config.evidence.student_share))
    return parts


def _baseline(config: TrainConfig) -> NetworkParts:
    table = replace(config.stage(config.evidence.stages[0]), start_from=config.evidence.baseline, loras=())
    return config.setup(pick_device(config.device)).parts(table)


def _size(config: TrainConfig) -> tuple[int, int]:
    table = config.stage("tryon")
    return table.height, table.shot


def _measured(config: TrainConfig, name: str, way: Way) -> Path:
    return config.out / "measured" / f"{name}@{label(way)}.json"


def _write(config: TrainConfig) -> Path:
    e = config.evidence
    path = config.out / "evidence.json"
    found = measured(config.out, e.seeds)
    report = {
        "seeds": list(e.seeds),
        "guidance": e.guidance,
        "teacher_steps": e.teacher_steps,
        "figures": collected(found),
        "comparisons": compare(found, e.teacher_steps, "start" if e.baseline else "isolate"),
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plots.write(config.out, report)
    return path
