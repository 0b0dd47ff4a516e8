"""Which engine runs a checkpoint: torch, our Triton kernels or TensorRT, as it was asked for and never another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine_build.engine import Engine
from engine_build.options import EngineOptions
from engine_build.request.warm_sizes import WarmSize
from engine_build.runtime.torch_engine import load


def load_engine(
    model: str,
    *,
    backend: str = "torch",
    device: str = "auto",
    dtype: str = "auto",
    reference_cache_bytes: int = 1 << 30,
    token_budget: int | None = None,
    graph_bytes: int | None = None,
    warm: str = "",
    loras: Sequence[tuple[Path, float]] = (),
    overflow: Literal["sheets", "sequential"] = "sheets",
    adapter_bytes: int = 1 << 30,
) -> Engine:
    """Load the engine for `model` ('nano', a folder or a hub id), keeping K/V of garments up to a size in bytes.

    `token_budget` bounds one forward, `graph_bytes` CUDA graphs (0: none); None leaves them to the device's memory.
    `warm` declares what the warm-up makes ready, like `768x1024:6*2,1024x1024` (`engine_build.request.warm_sizes`).
    `loras` are files and strengths, merged into the weights; `adapter_bytes` bound the adapters that requests choose
    (0: none), which the tensorrt backend does not run. `overflow` says what becomes of garments beyond the
    checkpoint's references: laid out together on contact sheets, or put on in several passes.
    Raises CheckpointError for a checkpoint that does not load, BackendError for a backend that is not here,
    RequestError for buckets or a dtype that do not exist.
    """
    options = EngineOptions(
        reference_cache_bytes=reference_cache_bytes,
        token_budget=token_budget,
        graph_bytes=graph_bytes,
        graphs=False if graph_bytes == 0 else None,
        warm=WarmSize.parse_all(warm),
        loras=tuple(loras),
        overflow=overflow,
        adapter_bytes=adapter_bytes,
    )
    if backend == "tensorrt":
        # Graphs and their tools are read only by who asked for them.
        from engine_build.tensorrt.backend import load as load_tensorrt

        return load_tensorrt(model, device=device, options=options)
    return load(model, backend=backend, device=device, dtype=dtype, options=options)
