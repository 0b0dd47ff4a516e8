"""The engine on a real GPU: the driver objects to any wait in a step, graphs replay, FP8 keeps its budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("triton")
from engine_build.bench.precision import BUDGETS, psnr
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import MemoryShortage
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.host_device import Landing, upload
from engine_build.runtime.cuda_graphs import GraphSteps
from engine_build.runtime.torch_engine import EngineOptions, TorchEngine, load
from kernels import Segments, select
from kernels.backend import TMA_CAPABILITY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def photo(seed: int) -> ImageInput:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    return ImageInput(Image.fromarray(pixels).resize((72, 96)), f"photo-{seed}", "tops")


def request(name: str, garments: int = 1, **changes: object) -> TryOnRequest:
    told = compose([GarmentPhrase("tops")] * garments)
    worn = tuple(photo(10 + i) for i in range(garments))
    return TryOnRequest(**{"id": name, "person": photo(1), "garments": worn, "instruction": told, **changes})


def nano(dtype: str = "bfloat16", backend: str = "triton", **options: object) -> TorchEngine:
    return load("nano", device="cuda", dtype=dtype, backend=backend, options=EngineOptions(**options))


@pytest.mark.parametrize("graphs", [False, True])
def test_the_driver_sees_no_wait_in_a_step(graphs: bool) -> None:
    pipeline = nano(graphs=graphs).pipeline
    asked = request("a", 2)
    made = pipeline.condition(asked.instruction, (asked.person, *asked.garments))
    states = [pipeline.begin(made, (72, 96), 4, seed=i) for i in range(2)]
    pipeline.advance(states)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            pipeline.advance(states)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(state.done for state in states)


def test_copies_go_by_pinned_memory_and_wait_for_nothing() -> None:
    device, x = torch.device("cuda"), torch.arange(1 << 20, dtype=torch.float32)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        landing = Landing(upload(x, device) * 2, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    back = landing.wait()
    assert back.is_pinned()
    assert torch.equal(back, x * 2)


def test_tensor_maps_hold_no_memory() -> None:
    """Each launch makes maps of keys and values, which must not outlive it."""
    if torch.cuda.get_device_capability() < TMA_CAPABILITY:
        pytest.skip("tensor maps need Hopper")
    kernels, size = select("triton-tma"), 4096
    q, k, v = (torch.randn(size, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    kernels.attention(q, k, v, Segments((size,)))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        kernels.attention(q, k.clone(), v.clone(), Segments((size,)))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2 * k.nbytes


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_graphs_draw_the_same_pictures(dtype: str) -> None:
    eager, recorded = nano(dtype, graphs=False), nano(dtype)
    stepper = recorded.pipeline.stepper
    assert isinstance(stepper, GraphSteps)
    recorded.warm_up()
    buckets = stepper.buckets
    assert buckets and 0 < stepper.bytes <= stepper.max_bytes
    assert all(graph.captured.bytes > 0 for graph in stepper._graphs.values())
    for asked in ([request("a", 2, seed=3)], [request("b", 6), request("c", 1, seed=5, steps=2)], [request("d", 3)]):
        for one, other in zip(eager.run(asked), recorded.run(asked), strict=True):
            assert one.status == other.status == "succeeded"
            assert psnr(other.image, one.image) > 38
    assert set(buckets) <= set(stepper.buckets)


@pytest.mark.parametrize(("dtype", "backend"), [*((dtype, "triton") for dtype in BUDGETS), ("bfloat16", "triton-tma")])
def test_fast_modes_keep_their_budget(dtype: str, backend: str) -> None:
    if backend == "triton-tma" and torch.cuda.get_device_capability() < TMA_CAPABILITY:
        pytest.skip("tensor maps need Hopper")
    exact, fast = nano("float32", "torch"), nano(dtype, backend)
    assert isinstance(fast.pipeline.stepper, GraphSteps)
    for asked in (request("a", 1, seed=1), request("b", 3, seed=2)):
        (wanted,), (drawn,) = exact.run([asked]), fast.run([asked])
        assert psnr(drawn.image, wanted.image) >= BUDGETS[dtype].psnr


def test_a_real_lack_of_memory_is_one_requests_own() -> None:
    engine = nano(graphs=False, previews=False)
    engine.run([request("warm")])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        limit = int((engine.config.max_pixels) ** 0.5) // 8 * 8
        small, large = engine.run([request("small"), request("large", 1, size=(limit, limit))])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert small.status == "succeeded"
    assert large.status == "succeeded" or isinstance(large.error, MemoryShortage)
    assert engine.run([request("after")])[0].status == "succeeded"
