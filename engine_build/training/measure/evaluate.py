"""`changeroom evaluate MODEL`: held-out scenes through the real engine, scored, beside two baselines.

The engine gets pictures and the instruction, nothing else. "copy" hands the person back unchanged; "truth"
hands in the sampled target, so its scores show what the measures themselves allow. Pictures smaller than the
scenes are enlarged, so that checkpoints of different sizes can be judged alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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
from engine_build.training.measure.scores import Scores, judged
from engine_build.training.measure.summary import by_category, by_count, summary
from engine_build.world.instructions import instruction_of
from engine_build.world.render import render
from engine_build.world.sample_files import picture, sample_row
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import Scene
from engine_build.world.wrong_outfits import admissible

BATCH = 4
BASELINES = ("copy", "truth")


def held_out(samples: int, garments: int | None) -> list[Scene]:
    """The scenes of an evaluation; with None the counts 1 to 6 take turns."""
    counts = [garments or 1 + i % MAX_GARMENTS for i in range(samples)]
    return [sample_scene(HELD_OUT_SEED + i, count) for i, count in enumerate(counts)]


def requests_of(scenes: list[Scene], height: int, steps: int | None, size: tuple[int, int]) -> list[TryOnRequest]:
    """Engine requests of `size` for scenes drawn at `height`; the seed of the noise is the scene's own."""
    drawn = render(scenes, height, height * 2 // 3)
    result = []
    for i, scene in enumerate(scenes):
        garments = tuple(
            ImageInput(picture(drawn.garments[i, j]), f"{scene.seed}/{j}", g.category, g.layer_words)
            for j, g in enumerate(scene.garments)
        )
        person = ImageInput(picture(drawn.person[i]), f"{scene.seed}/person")
        told = instruction_of(scene)
        result.append(TryOnRequest(str(scene.seed), person, garments, told, scene.seed % 2**31, steps, size))
    return result


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def generate(engine: Engine, scenes: list[Scene], height: int, steps: int | None) -> tuple[list[Tensor], float]:
    """Pictures (3, height, W) and the seconds they took. Raises the engine's error for a request that failed.

    The engine paints at its own size; a smaller picture is enlarged to the scenes'.
    """
    requests = requests_of(scenes, height, steps, engine.describe().default_size)
    began = time.perf_counter()
    outcomes = engine.run(requests)
    seconds = time.perf_counter() - began
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    size = (height * 3 // 4, height)
    pictures = (outcome.image for outcome in outcomes if outcome.image is not None)
    return [tensor(p if p.size == size else p.resize(size, Image.Resampling.BICUBIC)) for p in pictures], seconds


def write_sheet(engine: Engine, path: Path, steps: int | None = None, zoom: int = 3) -> None:
    """A contact sheet of twelve held-out scenes, two for each of 1 to 6 garments: person, garments, result, truth."""
    height = engine.describe().default_size[1]
    rows = []
    for i in range(2 * MAX_GARMENTS):
        scene = sample_scene(HELD_OUT_SEED + 9_000 + i, 1 + i // 2)
        (output,), _ = generate(engine, [scene], height, steps)
        rows.append(sample_row(render([scene], height, height * 4 // 3), len(scene.garments), output))
    width, gap = rows[0].width, height // 8
    sheet = Image.new("RGB", (2 * width + gap, MAX_GARMENTS * (height + gap) - gap), (255, 255, 255))
    for i, row in enumerate(rows):
        sheet.paste(row, (i % 2 * (width + gap), i // 2 * (height + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.LANCZOS).save(path)


def evaluate(
    engine: Engine,
    judge: Classifier,
    samples: int,
    garments: int | None,
    steps: int | None = None,
    height: int | None = None,
) -> dict[str, object]:
    """Score `samples` held-out scenes (of `garments` garments, or of 1 to 6 in turn); JSON-ready values.

    Scenes are `height` pixels high, by default as high as the engine paints.
    """
    info = engine.describe()
    height = height or info.default_size[1]
    results: dict[str, list[Scores]] = {name: [] for name in ("model", *BASELINES)}
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
        "height": height,
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
    height: int | None = None,
) -> dict[str, object]:
    """Load, evaluate, write JSON and the contact sheet, `say` the table. Raises RequestError for impossible numbers."""
    if samples < 1 or (garments is not None and not 1 <= garments <= MAX_GARMENTS):
        raise RequestError(f"samples must be at least 1 and garments 1 to {MAX_GARMENTS}, not {samples} and {garments}")
    if height is not None and (height < 16 or height % 4):
        raise RequestError(f"height must be a multiple of 4 from 16 on, not {height}")
    engine = load_engine(model)
    report = evaluate(engine, classifier.load(), samples, garments, steps, height)
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
