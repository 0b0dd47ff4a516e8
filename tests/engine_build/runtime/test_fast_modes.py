"""What bfloat16 and FP8 cost in exactness, on the bundled nano, within `engine_build.bench.precision`'s budgets."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from engine_build.bench.precision import BUDGETS, psnr, relative_l2
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.runtime.cuda_graphs import Eager, Step
from engine_build.runtime.torch_engine import EngineOptions, TorchEngine, load
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from kernels.fp8 import Fp8Linear


class Recording:
    """Steps as they are, with what went in and came out remembered; or fed with what another one remembers."""

    def __init__(self, model: MMDiT, fed: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.eager, self.fed = Eager(model), fed
        self.seen: list[tuple[Tensor, Tensor]] = []

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step:
        step = self.eager.prepare(batch, kv)

        def recorded(target: Tensor, sigma: Tensor) -> Tensor:
            if self.fed is not None:
                target = self.fed[len(self.seen)][0]
            velocity = step(target, sigma)
            self.seen.append((target, velocity))
            return velocity

        return recorded


def draw(seed: int, garments: int) -> tuple[Image.Image, list[Image.Image]]:
    """A person and garments of the procedural world, seen by no training."""
    drawn = render([sample_scene(HELD_OUT_SEED + seed, garments)], 96)
    return picture(drawn.person[0]), [picture(drawn.garments[0, i]) for i in range(garments)]


def nano(dtype: str) -> TorchEngine:
    return load("nano", device="cpu", dtype=dtype, options=EngineOptions(previews=False))


@pytest.fixture(scope="module")
def asked() -> TryOnRequest:
    person, worn = draw(2, 2)
    pictures = tuple(ImageInput(image, f"garment-{i}") for i, image in enumerate(worn))
    told = compose([GarmentPhrase("tops")] * 2)
    return TryOnRequest("r", ImageInput(person, "person"), pictures, told, seed=2)


@pytest.fixture(scope="module")
def exact(asked: TryOnRequest) -> tuple[list[tuple[Tensor, Tensor]], Image.Image]:
    """Every step of float32, and its picture."""
    engine = nano("float32")
    engine.pipeline.stepper = truth = Recording(engine.pipeline.model)
    (outcome,) = engine.run([asked])
    assert len(truth.seen) == engine.config.default_steps
    return truth.seen, outcome.image


@pytest.mark.parametrize("dtype", BUDGETS)
def test_a_fast_mode_keeps_its_budget(
    dtype: str, asked: TryOnRequest, exact: tuple[list[tuple[Tensor, Tensor]], Image.Image]
) -> None:
    steps, picture_of_it = exact
    engine = nano(dtype)
    converted = any(isinstance(module, Fp8Linear) for module in engine.pipeline.model.modules())
    assert converted == (dtype == "fp8")
    (drawn,) = engine.run([asked])
    assert psnr(drawn.image, picture_of_it) >= BUDGETS[dtype].psnr
    engine.pipeline.stepper = mine = Recording(engine.pipeline.model, fed=steps)
    engine.run([asked])
    errors = [relative_l2(a, b) for (_, a), (_, b) in zip(mine.seen, steps, strict=True)]
    assert 1e-4 < max(errors) <= BUDGETS[dtype].velocity, errors


def test_the_measures() -> None:
    x = torch.tensor([3.0, 4.0])
    assert relative_l2(x + torch.tensor([0.0, 0.5]), x) == pytest.approx(0.1)
    person, _ = draw(1, 1)
    assert psnr(person, person) == float("inf")
    dark, light = (person.convert("L").point(lambda _, v=value: v) for value in (10, 35))
    assert psnr(dark, light) == pytest.approx(20.172, abs=1e-3)
