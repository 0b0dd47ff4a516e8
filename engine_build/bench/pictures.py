"""One picture made and timed, by an engine or by diffusers, from decoded photos to the encoded result."""

from __future__ import annotations

import gc
import io
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine_build.bench.plan import BenchPlan, Mode
from engine_build.bench.subjects import Weights
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import RequestError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.runtime.torch_engine import TorchEngine

Make = Callable[[tuple[int, int], int], tuple[float, dict[str, float]]]
_numbers = itertools.count()


def maker(plan: BenchPlan, weights: Weights, mode: Mode) -> Make:
    """A function of size and garments that makes one picture and says how long it and its stages took."""
    if mode.backend is None:
        if mode.compiled and weights.device.type == "cpu":
            raise RequestError("torch.compile is measured on a GPU only")
        return partial(_with_diffusers, plan, weights, weights.diffusers(mode.compiled))
    return partial(with_engine, plan, weights.engine(mode.attention, mode.backend, mode.fp8, mode.cached), mode.cached)


def with_engine(
    plan: BenchPlan, engine: TorchEngine, cached: bool, size: tuple[int, int], garments: int
) -> tuple[float, dict[str, float]]:
    request = request_of(plan, size, garments, fresh=not cached)
    device = engine.pipeline.device
    wait(device)
    started = time.perf_counter()
    (outcome,) = engine.run([request])
    if outcome.image is None:
        raise outcome.error or RequestError("the request was canceled")
    made = time.perf_counter()
    _encode(outcome.image)
    ended = time.perf_counter()
    return ended - started, {**outcome.stages, "encode": ended - made}


def _with_diffusers(
    plan: BenchPlan, weights: Weights, pipeline: Any, size: tuple[int, int], garments: int
) -> tuple[float, dict[str, float]]:
    request = request_of(plan, size, garments, fresh=True)
    pictures = [request.person.image, *(worn.image for worn in request.garments)]
    wait(weights.device)
    started = time.perf_counter()
    with torch.inference_mode():
        text = weights.text_encoder.encode(request.instruction)[None]
        wait(weights.device)
        told = time.perf_counter()
        image = pipeline(
            image=pictures, prompt_embeds=text, width=size[0], height=size[1], num_inference_steps=plan.steps,
            generator=torch.Generator(weights.device).manual_seed(0),
        ).images[0]  # fmt: skip
    made = time.perf_counter()
    _encode(image)
    ended = time.perf_counter()
    return ended - started, {"text": told - started, "pipeline": made - told, "encode": ended - made}


def request_of(plan: BenchPlan, size: tuple[int, int], garments: int, fresh: bool) -> TryOnRequest:
    """A request of random pictures; a fresh one has pictures nobody has seen."""
    number = next(_numbers) if fresh else 0

    def picture(width: int, height: int, name: str) -> ImageInput:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return ImageInput(Image.fromarray(pixels), f"{name} {number}", category=None if name == "person" else "tops")

    worn = tuple(picture(plan.garment, plan.garment, f"garment {i}") for i in range(garments))
    told = compose([GarmentPhrase("tops")] * garments)
    return TryOnRequest("bench", picture(*size, "person"), worn, told, seed=0, steps=plan.steps, size=size)


def tokens_of(plan: BenchPlan, weights: Weights, size: tuple[int, int], garments: int) -> int:
    side: int = 2 ** len(weights.vae.config.block_out_channels)
    image = size[0] * size[1] // side**2
    return 2 * image + garments * plan.garment**2 // side**2 + text_tokens(weights, garments)


def text_tokens(weights: Weights, garments: int) -> int:
    return weights.text_encoder.count(compose([GarmentPhrase("tops")] * garments))


def _encode(image: Image.Image) -> None:
    image.save(io.BytesIO(), "JPEG", quality=90)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reason_of(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
