"""Measures try-ons end to end, attention alone, and pictures a second under packing, in one run."""

from __future__ import annotations

import gc
import io
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine_build.bench import floors
from engine_build.bench.plan import Mode, Plan, all_modes
from engine_build.bench.rows import AttentionRow, PackedRow, Results, Row, percentiles
from engine_build.bench.subjects import Weights
from engine_build.engine import ImageInput, TryOnRequest, load_engine
from engine_build.errors import BackendError, RequestError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.loading import pick_device, pick_dtype, pick_kernels
from engine_build.torch_engine import TorchEngine
from kernels import Segments

_log = logging.getLogger(__name__)
_numbers = itertools.count()


Progress = Callable[[str], None]
Make = Callable[[tuple[int, int], int], tuple[float, dict[str, float]]]


def run(plan: Plan, progress: Progress = _log.info) -> Results:
    """Every mode at every size; a mode that cannot run here says why in its status and does not stop the others."""
    device = pick_device(plan.device)
    weights = Weights(plan.preset, device, pick_dtype("auto", device))
    results = Results(plan, f"{plan.preset} shapes, random weights")
    for mode in all_modes(plan.fast):
        if plan.modes and mode.name not in plan.modes:
            continue
        progress(mode.name)
        results.rows += _end_to_end(plan, weights, mode, progress)
        _free(device)
    _compare(results.rows, device.type == "cuda")
    progress("attention alone")
    results.attention = _attention(plan, weights)
    progress("packing")
    results.packed = _packing(plan, weights)
    return results


def run_checkpoint(
    model: str, backends: Sequence[str], device: str, repeats: int, progress: Progress = _log.info
) -> Results:
    """A checkpoint's own try-ons, at its default size, with each of some backends, the first one the base.

    Raises CheckpointError; a backend that is not here says so in its rows' status.
    """
    results = Results(Plan(device=device, repeats=repeats, warmups=1, sizes=(), garments=(1, 3)), model)
    for backend in backends:
        progress(backend)
        engine, problem = None, ""
        try:
            engine = load_engine(model, backend=backend, device=device, reference_cache_bytes=0)
        except BackendError as error:
            problem = _reason(error)
        for garments in results.plan.garments:
            row = Row(backend, 0, 0, garments, 0)
            results.rows.append(row)
            if not isinstance(engine, TorchEngine):
                row.status = f"skipped: {problem}"
                continue
            row.width, row.height = engine.config.default_size
            row.tokens = engine.cost(row.width, row.height, garments)
            plan = replace(results.plan, garment=64 if row.width < 128 else 512, steps=engine.config.default_steps)
            _measure(row, plan, partial(_with_engine, plan, engine, False))
    base = {row.garments: row.p50 for row in results.rows if row.mode == backends[0]}
    for row in results.rows:
        before = base[row.garments]
        row.times_faster = before / row.p50 if before and row.p50 else None
    return results


def _end_to_end(plan: Plan, weights: Weights, mode: Mode, progress: Progress) -> list[Row]:
    rows = []
    make: Make | None = None
    problem = ""
    try:
        make = _maker(plan, weights, mode)
    except Exception as error:
        problem = _reason(error)
        _log.warning("%s: %s", mode.name, problem)
    for size, garments in itertools.product(plan.sizes, plan.garments):
        row = Row(mode.name, *size, garments, _tokens(plan, weights, size, garments))
        rows.append(row)
        if make is None:
            row.status = f"skipped: {problem}"
            continue
        progress(f"{mode.name}, {size[0]}x{size[1]}, {garments} garments")
        if _measure(row, plan, make):
            row.floor = _floor(plan, weights, mode, size, garments) * 1e3
        else:
            _free(weights.device)
    return rows


def _measure(row: Row, plan: Plan, make: Make) -> bool:
    """Fills in a row's times; False when making the picture failed, which its status then says."""
    try:
        taken = [make((row.width, row.height), row.garments) for _ in range(plan.warmups + plan.repeats)]
    except Exception as error:
        row.status = f"failed: {_reason(error)}"
        _log.warning("%s: %s", row.mode, row.status)
        return False
    taken = taken[plan.warmups :]
    row.p20, row.p50, row.p80 = percentiles([seconds for seconds, _ in taken])
    names = taken[0][1]
    row.stages = {n: percentiles([stages.get(n, 0.0) for _, stages in taken])[1] for n in names}
    return True


def _maker(plan: Plan, weights: Weights, mode: Mode) -> Make:
    """A function of size and garments that makes one picture and says how long it and its stages took."""
    if mode.backend is None:
        if mode.compiled and weights.device.type == "cpu":
            raise RequestError("torch.compile is measured on a GPU only")
        return partial(_with_diffusers, plan, weights, weights.diffusers(mode.compiled))
    return partial(_with_engine, plan, weights.engine(mode.attention, mode.backend, mode.fp8, mode.cached), mode.cached)


def _with_engine(
    plan: Plan, engine: TorchEngine, cached: bool, size: tuple[int, int], garments: int
) -> tuple[float, dict[str, float]]:
    request = _request(plan, size, garments, fresh=not cached)
    device = engine.pipeline.device
    _wait(device)
    started = time.perf_counter()
    (outcome,) = engine.run([request])
    if outcome.image is None:
        raise outcome.error or RequestError("the request was canceled")
    made = time.perf_counter()
    _encode(outcome.image)
    ended = time.perf_counter()
    return ended - started, {**outcome.stages, "encode": ended - made}


def _with_diffusers(
    plan: Plan, weights: Weights, pipeline: object, size: tuple[int, int], garments: int
) -> tuple[float, dict[str, float]]:
    request = _request(plan, size, garments, fresh=True)
    pictures = [request.person.image, *(worn.image for worn in request.garments)]
    _wait(weights.device)
    started = time.perf_counter()
    with torch.inference_mode():
        text = weights.text_encoder.encode(request.instruction)[None]
        _wait(weights.device)
        told = time.perf_counter()
        image = pipeline(  # type: ignore[operator]
            image=pictures, prompt_embeds=text, width=size[0], height=size[1], num_inference_steps=plan.steps,
            generator=torch.Generator(weights.device).manual_seed(0),
        ).images[0]  # fmt: skip
    made = time.perf_counter()
    _encode(image)
    ended = time.perf_counter()
    return ended - started, {"text": told - started, "pipeline": made - told, "encode": ended - made}


def _compare(rows: list[Row], on_gpu: bool) -> None:
    """Ratios to diffusers and, on a GPU, to the floor, whose rates are a GPU's."""
    base = {(row.width, row.height, row.garments): row.p50 for row in rows if row.mode == "diffusers"}
    for row in rows:
        before = base.get((row.width, row.height, row.garments))
        if row.p50 and before:
            row.times_faster = before / row.p50
        if row.p50 and row.floor and on_gpu:
            row.times_floor = row.p50 / row.floor


def _floor(plan: Plan, weights: Weights, mode: Mode, size: tuple[int, int], garments: int) -> float:
    """Seconds of denoising, decoding and, unless cached, encoding, by counting."""
    side = 2 ** len(weights.vae.config.block_out_channels)
    person, one = size[0] * size[1] // side**2, plan.garment**2 // side**2
    references = (person, *[one] * garments)
    work = floors.denoise(
        weights.shape, mode.attention, text=_text_tokens(weights, garments), target=person,
        references=references, steps=plan.steps, cached=mode.cached,
    )  # fmt: skip
    pixels = floors.autoencoder(weights.vae, size, encode=False)
    if not mode.cached:
        pixels += floors.autoencoder(weights.vae, size, encode=True)
        pixels += garments * floors.autoencoder(weights.vae, (plan.garment, plan.garment), encode=True)
    return work.seconds(floors.H200, mode.fp8) + pixels / floors.H200.bf16


def _attention(plan: Plan, weights: Weights) -> list[AttentionRow]:
    heads, size = weights.shape.num_attention_heads, weights.shape.attention_head_dim
    kernels = pick_kernels(plan.fast)
    rows = []
    for tokens in sorted(
        {_tokens(plan, weights, s, g) for s in plan.sizes for g in (min(plan.garments), max(plan.garments))}
    ):
        shape = (tokens, heads, size)
        q, k, v = (torch.randn(shape, device=weights.device, dtype=weights.dtype) for _ in range(3))
        segments = Segments((tokens,))
        batched = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
        ours = _median(plan, weights, lambda q=q, k=k, v=v, s=segments: kernels.attention(q, k, v, s))
        sdpa = _median(plan, weights, partial(_sdpa, batched))
        work = 4.0 * tokens * tokens * heads * size
        rows.append(AttentionRow(tokens, kernels.name, ours * 1e3, work / ours / 1e12, sdpa * 1e3, work / sdpa / 1e12))
    return rows


def _sdpa(batched: Sequence[Tensor]) -> Tensor:
    """torch's attention, by cuDNN where there is a GPU."""
    if batched[0].device.type != "cuda":
        return F.scaled_dot_product_attention(*batched)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        return F.scaled_dot_product_attention(*batched)


def _packing(plan: Plan, weights: Weights) -> list[PackedRow]:
    """Pictures a second of the fastest exact mode with garments that are known already."""
    name, rows = f"{plan.fast} + cached references", []
    try:
        engine = weights.engine("isolated", plan.fast, fp8=False, cached=True)
    except Exception as error:
        return [PackedRow(name, 0, 0, 0, f"skipped: {_reason(error)}")]
    for size, n in itertools.product(plan.packed_sizes, plan.packed):
        row = PackedRow(name, *size, n)
        rows.append(row)
        requests = [_request(plan, size, 1, fresh=False) for _ in range(n)]

        def together(requests: list[TryOnRequest] = requests) -> None:
            for outcome in engine.run(requests):
                if outcome.error is not None:
                    raise outcome.error

        try:
            row.images_per_second = n / _median(plan, weights, together)
        except Exception as error:
            row.status = f"failed: {_reason(error)}"
            _log.warning("packing %d: %s", n, row.status)
            _free(weights.device)
    return rows


def _median(plan: Plan, weights: Weights, work: Callable[[], object]) -> float:
    taken = []
    with torch.inference_mode():
        for _ in range(plan.warmups + plan.repeats):
            _wait(weights.device)
            started = time.perf_counter()
            work()
            _wait(weights.device)
            taken.append(time.perf_counter() - started)
    return percentiles(taken[plan.warmups :])[1] / 1e3


def _request(plan: Plan, size: tuple[int, int], garments: int, fresh: bool) -> TryOnRequest:
    """A request of random pictures; a fresh one has pictures nobody has seen."""
    number = next(_numbers) if fresh else 0

    def picture(width: int, height: int, name: str) -> ImageInput:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return ImageInput(Image.fromarray(pixels), f"{name} {number}", category=None if name == "person" else "tops")

    worn = tuple(picture(plan.garment, plan.garment, f"garment {i}") for i in range(garments))
    told = compose([GarmentPhrase("tops")] * garments)
    return TryOnRequest("bench", picture(*size, "person"), worn, told, seed=0, steps=plan.steps, size=size)


def _tokens(plan: Plan, weights: Weights, size: tuple[int, int], garments: int) -> int:
    side = 2 ** len(weights.vae.config.block_out_channels)
    image = size[0] * size[1] // side**2
    return 2 * image + garments * plan.garment**2 // side**2 + _text_tokens(weights, garments)


def _text_tokens(weights: Weights, garments: int) -> int:
    return weights.text_encoder.count(compose([GarmentPhrase("tops")] * garments))


def _encode(image: Image.Image) -> None:
    image.save(io.BytesIO(), "JPEG", quality=90)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
