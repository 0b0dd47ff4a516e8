"""`changeroom evaluate MODEL`: held-out scenes through the real engine, scored, beside two baselines.

The engine gets pictures and the instruction, nothing else. "copy" hands the person back unchanged; "truth"
hands in the sampled target, so its scores show what the measures themselves allow.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from engine_build.backends import load_engine
from engine_build.engine import Engine, ImageInput, TryOnRequest
from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS
from engine_build.training.measure import classifier
from engine_build.training.measure.classifier import Classifier
from engine_build.training.measure.scores import Sample, nearest, score
from engine_build.training.nano.grids import sample_row
from engine_build.training.world.instructions import instruction_of
from engine_build.training.world.render import render
from engine_build.training.world.sample_files import picture
from engine_build.training.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.training.world.specs import Scene
from engine_build.training.world.wrong_outfits import Truth, admissible, alternatives

BATCH = 4
SHOT = 48
BASELINES = ("copy", "truth")


def held_out(samples: int, garments: int | None) -> list[Scene]:
    """The scenes of an evaluation; with None the counts 1 to 6 take turns."""
    counts = [garments or 1 + i % MAX_GARMENTS for i in range(samples)]
    return [sample_scene(HELD_OUT_SEED + i, count) for i, count in enumerate(counts)]


def requests_of(scenes: list[Scene], height: int, steps: int | None) -> list[TryOnRequest]:
    """Engine requests for scenes; the seed of the noise is the scene's own."""
    drawn = render(scenes, height, SHOT)
    result = []
    for i, scene in enumerate(scenes):
        garments = tuple(
            ImageInput(picture(drawn.garments[i, j]), f"{scene.seed}/{j}", g.category, g.layer_words)
            for j, g in enumerate(scene.garments)
        )
        person = ImageInput(picture(drawn.person[i]), f"{scene.seed}/person")
        size, told = (height * 3 // 4, height), instruction_of(scene)
        result.append(TryOnRequest(str(scene.seed), person, garments, told, scene.seed % 2**31, steps, size))
    return result


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def generate(engine: Engine, scenes: list[Scene], height: int, steps: int | None) -> tuple[list[Tensor], float]:
    """Pictures (3, H, W) and the seconds they took. Raises the engine's error for a request that failed."""
    requests = requests_of(scenes, height, steps)
    began = time.perf_counter()
    outcomes = engine.run(requests)
    seconds = time.perf_counter() - began
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return [tensor(outcome.image) for outcome in outcomes if outcome.image is not None], seconds


def write_sheet(engine: Engine, path: Path, steps: int | None = None, zoom: int = 3) -> None:
    """A contact sheet of twelve held-out scenes, two for each of 1 to 6 garments: person, garments, result, truth."""
    height = engine.describe().default_size[1]
    rows = []
    for i in range(2 * MAX_GARMENTS):
        scene = sample_scene(HELD_OUT_SEED + 9_000 + i, 1 + i // 2)
        (output,), _ = generate(engine, [scene], height, steps)
        rows.append(sample_row(render([scene], height, 2 * SHOT), len(scene.garments), output))
    width, gap = rows[0].width, height // 8
    sheet = Image.new("RGB", (2 * width + gap, MAX_GARMENTS * (height + gap) - gap), (255, 255, 255))
    for i, row in enumerate(rows):
        sheet.paste(row, (i % 2 * (width + gap), i // 2 * (height + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.LANCZOS).save(path)


def judged(
    outputs: list[list[Tensor]], truths: list[list[Truth]], judge: Classifier, others: bool = True
) -> list[list[Sample]]:
    """Scores of several outputs (3, H, W) a scene; alternatives of one truth are drawn once.

    Without `others` nothing is said about retrieval, at a fraction of the cost.
    """
    choice = [[nearest(one, allowed) for one in some] for some, allowed in zip(outputs, truths, strict=True)]
    needed = sorted({(i, k) for i, row in enumerate(choice) for k in row})
    wrong = dict(zip(needed, alternatives([truths[i][k] for i, k in needed], others), strict=True))
    return [
        [score(one, truths[i][k], wrong[i, k], judge) for one, k in zip(some, choice[i], strict=True)]
        for i, some in enumerate(outputs)
    ]


def summary(samples: list[Sample], seconds: float | None, nfe: int) -> dict[str, float | int | None]:
    """The issue's figures: means over samples, and over garments where a figure is one a garment."""

    def mean(values: Iterable[float]) -> float | None:
        kept = [v for v in values if not math.isnan(v)]
        return round(sum(kept) / len(kept), 4) if kept else None

    return {
        "background_psnr": mean(s.background_psnr for s in samples),
        "head_psnr": mean(s.head_psnr for s in samples),
        "garment_psnr": mean(v for s in samples for v in s.garment_psnr),
        "retrieval_at_16": mean(float(v) for s in samples for v in s.retrieval),
        "attribute_accuracy": mean(v for s in samples for v in s.attributes),
        "attribute_accuracy_truth": mean(v for s in samples for v in s.attributes_truth),
        "omission_rate": mean(float(v) for s in samples for v in s.omitted),
        "layering_accuracy": mean(float(v) for s in samples for v in s.layering),
        "sharpness": mean(s.sharpness for s in samples),
        "identity": mean(s.identity for s in samples),
        "garment_fidelity": mean(s.garment_fidelity for s in samples),
        "background": mean(s.background for s in samples),
        "physics": mean(s.physics for s in samples),
        "overall": mean(s.overall for s in samples),
        "seconds_per_image": seconds,
        "nfe": nfe,
    }


def by_category(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """PSNR and omission rate a category."""
    rows: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for sample in samples:
        for category, db, gone in zip(sample.categories, sample.garment_psnr, sample.omitted, strict=True):
            rows[category].append((db, gone))
    return {category: _losses(values) for category, values in sorted(rows.items())}


def by_count(samples: list[Sample], scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """PSNR and omission rate by the number of requested garments."""
    rows: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for sample, scene in zip(samples, scenes, strict=True):
        rows[str(len(scene.garments))] += zip(sample.garment_psnr, sample.omitted, strict=True)
    return {count: _losses(values) for count, values in sorted(rows.items()) if values}


def _losses(values: list[tuple[float, bool]]) -> dict[str, float]:
    return {
        "garments": len(values),
        "garment_psnr": round(sum(db for db, _ in values) / len(values), 3),
        "omission_rate": round(sum(gone for _, gone in values) / len(values), 4),
    }


def evaluate(
    engine: Engine, judge: Classifier, samples: int, garments: int | None, steps: int | None = None
) -> dict[str, object]:
    """Score `samples` held-out scenes (of `garments` garments, or of 1 to 6 in turn); JSON-ready values."""
    info = engine.describe()
    height = info.default_size[1]
    results: dict[str, list[Sample]] = {name: [] for name in ("model", *BASELINES)}
    spent, nfe = 0.0, steps or info.default_steps
    everything = held_out(samples, garments)
    for first in track(range(0, samples, BATCH), description=f"evaluate {info.model}"):
        scenes = everything[first : first + BATCH]
        outputs, seconds = generate(engine, scenes, height, steps)
        spent += seconds
        truths = admissible(scenes, height)
        sampled = [allowed[0] for allowed in truths]
        rows = [[one, truth.person, truth.target] for one, truth in zip(outputs, sampled, strict=True)]
        for row in judged(rows, truths, judge):
            for name, sample in zip(results, row, strict=True):
                results[name].append(sample)
    return {
        **summary(results["model"], round(spent / samples, 4), nfe),
        "model": info.model,
        "backend": info.backend,
        "device": info.device,
        "samples": samples,
        "garments": garments,
        "batch": min(BATCH, samples),
        "by_category": by_category(results["model"]),
        "by_garments": by_count(results["model"], everything),
        "baselines": {name: summary(results[name], None, 0) for name in BASELINES},
    }


def table(report: dict[str, object]) -> list[str]:
    """The report as lines of text: a figure, the model's value, copy's and the truth's."""
    baselines: dict[str, dict[str, float | None]] = report["baselines"]  # type: ignore[assignment]
    lines = [f"{'':26}{'model':>10}{'copy':>10}{'truth':>10}"]
    for name in baselines["copy"]:
        values = (report[name], *(baselines[one][name] for one in BASELINES))
        cells = "".join(f"{'-' if v is None else format(v, '.3f'):>10}" for v in values)
        lines.append(f"{name:26}{cells}")
    return lines


def main(
    model: str,
    samples: int = 500,
    garments: int | None = 3,
    json_file: Path | None = None,
    steps: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    sheet: Path | None = None,
) -> dict[str, object]:
    """Load, evaluate, write JSON and the contact sheet, `say` the table. Raises RequestError for impossible numbers."""
    if samples < 1 or (garments is not None and not 1 <= garments <= MAX_GARMENTS):
        raise RequestError(f"samples must be at least 1 and garments 1 to {MAX_GARMENTS}, not {samples} and {garments}")
    engine = load_engine(model)
    report = evaluate(engine, classifier.load(), samples, garments, steps)
    for line in table(report):
        say(line)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        say(f"written to {json_file}")
    if sheet is not None:
        write_sheet(engine, sheet, steps)
        say(f"written to {sheet}")
    return report
