"""What an engine may be told beyond its checkpoint, and what it holds in memory for that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine_build.config import ReferenceAttention
from engine_build.request.plan import Overflow
from engine_build.request.warm_sizes import WarmSize

CPU_TOKEN_BUDGET = 2_048
GPU_TOKEN_BUDGET = 49_152
GRAPH_BYTES = 16 << 30


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may be told beyond its checkpoint. None leaves a choice to the checkpoint or the device.

    `reference_attention` other than the checkpoint's own is an approximation and every outcome says so.
    `overflow` decides what happens to garments beyond the checkpoint's places. `loras` are files and their
    strengths, merged into the weights; `adapter_bytes` bound what adapters take that requests choose by name. Cache
    sizes are in bytes. `graphs` None records CUDA graphs where kernels
    and device allow it, within `graph_bytes` (None: up to GRAPH_BYTES), with room for `graph_prefix_tokens` of
    cached references. `warm` are the buckets that a warm-up makes ready, none for the default size alone.
    """

    reference_attention: ReferenceAttention | None = None
    overflow: Overflow = "sheets"
    loras: tuple[tuple[Path, float], ...] = ()
    garment_area: int | None = None
    token_budget: int | None = None
    previews: bool = True
    graphs: bool | None = None
    graph_bytes: int | None = None
    graph_prefix_tokens: int = 16_384
    warm: tuple[WarmSize, ...] = ()
    text_cache_bytes: int = 256 << 20
    latent_cache_bytes: int = 256 << 20
    reference_cache_bytes: int = 1 << 30
    adapter_bytes: int = 1 << 30
