"""Measures try-ons end to end, attention alone, and pictures a second under packing, in one run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from engine_build.backends import load_engine
from engine_build.bench import alone, floors
from engine_build.bench.allowance import NO_TIME, Allowance, over
from engine_build.bench.pictures import Make, free, maker, reason_of, text_tokens, tokens_of, with_engine
from engine_build.bench.plan import BenchPlan, Mode, all_modes
from engine_build.bench.rows import Results, Row, percentiles
from engine_build.bench.subjects import Weights
from engine_build.errors import BackendError
from engine_build.runtime.loading import pick_device, pick_dtype
from engine_build.runtime.torch_engine import TorchEngine

LEAST_RUNS = 3  # of a case that its share of the time would cut short

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]
Save = Callable[[Results], object]


def run(plan: BenchPlan, progress: Progress = _log.info, save: Save = lambda _: None) -> Results:
    """Every mode at every size; a mode that cannot run here says why in its status and does not stop the others.

    With `plan.minutes` each piece has an equal share of what is left, and the cases of the stated goals come first;
    what was under way is finished, the rest says that it was not measured. What compiles comes last, since it takes
    far longer than a share and would cost the others theirs. `save` is given what there is after each.
    """
    device, allowed = pick_device(plan.device), Allowance(plan.minutes)
    weights = Weights(plan.preset, device, pick_dtype("auto", device))
    results = Results(plan, f"{plan.preset} shapes, random weights")
    modes = [mode for mode in all_modes(plan.fast) if not plan.modes or mode.name in plan.modes]
    names, left = [mode.name for mode in modes], len(modes) + 2

    def measure(mode: Mode, pieces: int) -> None:
        progress(mode.name)
        results.rows += _end_to_end(plan, weights, mode, progress, allowed.share(pieces))
        results.rows.sort(key=lambda row: names.index(row.mode))
        free(device)
        _compare(results.rows, device.type == "cuda")
        save(results)

    progress("attention alone")
    results.attention = alone.attention(plan, weights, allowed.share(left))
    save(results)
    compiled = [mode for mode in modes if mode.compiled]
    for i, mode in enumerate(mode for mode in modes if not mode.compiled):
        measure(mode, left - 1 - i)
    progress("packing")
    results.packed = alone.packing(plan, weights, allowed.share(1 + len(compiled)))
    save(results)
    for i, mode in enumerate(compiled):
        measure(mode, len(compiled) - i)
    return results


def run_checkpoint(
    model: str, backends: Sequence[str], device: str, repeats: int, progress: Progress = _log.info
) -> Results:
    """A checkpoint's own try-ons, at its default size, with each of some backends, the first one the base.

    Raises CheckpointError; a backend that is not here says so in its rows' status.
    """
    results = Results(BenchPlan(device=device, repeats=repeats, warmups=1, sizes=(), garments=(1, 3)), model)
    for backend in backends:
        progress(backend)
        engine, problem = None, ""
        try:
            engine = load_engine(model, backend=backend, device=device, reference_cache_bytes=0)
        except BackendError as error:
            problem = reason_of(error)
        for garments in results.plan.garments:
            row = Row(backend, 0, 0, garments, 0)
            results.rows.append(row)
            if not isinstance(engine, TorchEngine):
                row.status = f"skipped: {problem}"
                continue
            row.width, row.height = engine.config.default_size
            row.tokens = engine.cost(row.width, row.height, garments)
            plan = replace(results.plan, garment=64 if row.width < 128 else 512, steps=engine.config.default_steps)
            _measure(row, plan, partial(with_engine, plan, engine, False))
    base = {row.garments: row.p50 for row in results.rows if row.mode == backends[0]}
    for row in results.rows:
        before = base[row.garments]
        row.times_faster = before / row.p50 if before and row.p50 else None
    return results


def _end_to_end(plan: BenchPlan, weights: Weights, mode: Mode, progress: Progress, ends: float) -> list[Row]:
    rows = []
    make: Make | None = None
    problem = ""
    try:
        make = maker(plan, weights, mode)
    except Exception as error:
        problem = reason_of(error)
        _log.warning("%s: %s", mode.name, problem)
    for size, garments in plan.cases:
        row = Row(mode.name, *size, garments, tokens_of(plan, weights, size, garments))
        rows.append(row)
        if make is None:
            row.status = f"skipped: {problem}"
            continue
        if over(ends):
            row.status = NO_TIME
            continue
        progress(f"{mode.name}, {size[0]}x{size[1]}, {garments} garments")
        if _measure(row, plan, make, ends):
            row.floor = _floor(plan, weights, mode, size, garments) * 1e3
        else:
            free(weights.device)
    return rows


def _measure(row: Row, plan: BenchPlan, make: Make, ends: float = math.inf) -> bool:
    """Fills in a row's times; False when making the picture failed, which its status then says."""
    taken: list[tuple[float, dict[str, float]]] = []
    try:
        while len(taken) < plan.warmups + plan.repeats:
            if over(ends) and len(taken) >= plan.warmups + LEAST_RUNS:
                break
            taken.append(make((row.width, row.height), row.garments))
    except Exception as error:
        row.status = f"failed: {reason_of(error)}"
        _log.warning("%s: %s", row.mode, row.status)
        return False
    taken = taken[plan.warmups :]
    row.runs = len(taken)
    row.p20, row.p50, row.p80 = percentiles([seconds for seconds, _ in taken])
    row.stages = {name: percentiles([stages.get(name, 0.0) for _, stages in taken])[1] for name in taken[0][1]}
    return True


def _compare(rows: list[Row], on_gpu: bool) -> None:
    """Ratios to diffusers and, on a GPU, to the floor, whose rates are a GPU's."""
    base = {(row.width, row.height, row.garments): row.p50 for row in rows if row.mode == "diffusers"}
    for row in rows:
        before = base.get((row.width, row.height, row.garments))
        if row.p50 and before:
            row.times_faster = before / row.p50
        if row.p50 and row.floor and on_gpu:
            row.times_floor = row.p50 / row.floor


def _floor(plan: BenchPlan, weights: Weights, mode: Mode, size: tuple[int, int], garments: int) -> float:
    """Seconds of denoising, decoding and, unless cached, encoding, by counting."""
    side = 2 ** len(weights.vae.config.block_out_channels)
    person, one = size[0] * size[1] // side**2, plan.garment**2 // side**2
    references = (person, *[one] * garments)
    work = floors.denoise(
        weights.shape, mode.attention, text=text_tokens(weights, garments), target=person,
        references=references, steps=plan.steps, cached=mode.cached,
    )  # fmt: skip
    pixels = floors.autoencoder(weights.vae, size, encode=False)
    if not mode.cached:
        pixels += floors.autoencoder(weights.vae, size, encode=True)
        pixels += garments * floors.autoencoder(weights.vae, (plan.garment, plan.garment), encode=True)
    return work.seconds(floors.H200, mode.fp8) + pixels / floors.H200.bf16
