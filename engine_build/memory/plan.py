"""What an engine will hold on its device, worked out on the meta device before anything is loaded.

Weights are counted tensor by tensor, activations by following one forward at the token budget and one decode
with shapes alone (`engine_build.memory.activations`). Allocators keep more than they hand out, so `SLACK` of the
working memory is added. Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from engine_build.errors import MemoryShortage, RequestError
from engine_build.memory.activations import decode_peak, forward_peak, shapes_only
from engine_build.model.adapter_bank import places_within
from engine_build.model.adapters import RANK, PageLayout
from engine_build.model.shapes import CheckpointShapes, parts_of
from engine_build.model.weights import DTYPES, empty_model
from engine_build.options import GPU_TOKEN_BUDGET, GRAPH_BYTES, EngineOptions
from kernels.fp8 import convert

CONTEXT = 1 << 30  # of CUDA itself and its libraries' workspaces
SLACK = 0.15
H200 = 140 << 30  # what is sold as 141 GB
BUDGETS = (GPU_TOKEN_BUDGET, 32_768, 20_480, 14_336)


@dataclass(frozen=True)
class MemoryRow:
    """One thing that takes memory: how much, and why."""

    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class MemoryPlan:
    """All of it, for one checkpoint on one device."""

    name: str
    rows: tuple[MemoryRow, ...]

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def table(self, available: int | None = None) -> str:
        """The rows as text, with what is left of `available`."""
        lines = [f"{self.name}: memory on the device"]
        lines += [f"{row.name:<22}{row.bytes / 2**30:>8.2f} GiB  {row.why}" for row in self.rows]
        lines.append(f"{'together':<22}{self.bytes / 2**30:>8.2f} GiB")
        if available is not None:
            left = available - self.bytes
            said = "left" if left >= 0 else "missing"
            lines.append(f"{said:<22}{abs(left) / 2**30:>8.2f} GiB  of {available / 2**30:.0f} GiB")
        return "\n".join(lines)


def make_plan(parts: CheckpointShapes, *, dtype: str, backend: str, options: EngineOptions) -> MemoryPlan:
    """The plan of a checkpoint's parts on a GPU. dtype `auto` is bfloat16. Raises RequestError for an unknown dtype."""
    if dtype not in ("auto", "fp8", *DTYPES):
        raise RequestError(f"dtype {dtype!r} is not one of auto, fp8, {', '.join(DTYPES)}")
    number = DTYPES.get(dtype, torch.bfloat16)
    config = replace(parts.model, reference_attention=options.reference_attention or parts.model.reference_attention)
    fused = backend.startswith("triton")
    model = empty_model(config, shapes_only() if fused else None).to(number).eval().requires_grad_(False)
    if dtype == "fp8":
        convert(model)
    budget = options.token_budget or GPU_TOKEN_BUDGET
    joint = config.reference_attention == "joint"
    kept = 0 if joint else 2 * config.layers * config.width * number.itemsize  # keys and values of one token
    shown = f"{dtype if dtype != 'auto' else 'bfloat16'}, {config.num_layers} + {config.num_single_layers} blocks"
    width, height = parts.config.default_size
    rows = [
        MemoryRow("MMDiT", held(model), shown),
        MemoryRow("text encoder", held(parts.text) // 2 * number.itemsize, "the layers that are used"),
        MemoryRow("autoencoder", held(parts.vae) // 4 * number.itemsize, ""),
        MemoryRow("text cache", options.text_cache_bytes, "bound"),
        MemoryRow("latents cache", options.latent_cache_bytes, "bound"),
    ]
    if not joint:
        rows.append(MemoryRow("reference KV cache", options.reference_cache_bytes, f"bound; {kept} bytes a token"))
    page = PageLayout.of(model).elements * number.itemsize
    if places := places_within(options.adapter_bytes, page):
        rows.append(MemoryRow("adapters", places * page, f"{places} places of rank {RANK}"))
    if fused and options.graphs is not False:
        rows.append(
            MemoryRow("CUDA graphs", GRAPH_BYTES if options.graph_bytes is None else options.graph_bytes, "bound")
        )
        if kept:
            rows.append(MemoryRow("their references", options.graph_prefix_tokens * kept, "one arena"))
    if kept:
        in_use = 2 * _reference_share(parts) * budget // 100 * kept
        rows.append(MemoryRow("references in use", in_use, "of a full pack, and each request's own"))
    working = max(
        forward_peak(model, parts.config, budget),
        decode_peak(parts.vae, width, height) // 4 * number.itemsize,
    )
    rows.append(
        MemoryRow("activations", int(working * (1 + SLACK)), f"{budget} tokens, or a decode of {width}x{height}")
    )
    rows.append(MemoryRow("CUDA", CONTEXT, "context and workspaces"))
    return MemoryPlan(parts.name, tuple(rows))


def fit(
    model: str | Path, *, dtype: str, backend: str, options: EngineOptions, free: int
) -> tuple[EngineOptions, MemoryPlan]:
    """The options with which the plan fits `free` bytes: a token budget and graphs left open are made smaller.

    Raises CheckpointError for a checkpoint that cannot be read, RequestError for an unknown dtype, MemoryShortage,
    with the parts of the smallest plan, when it does not fit even then.
    """
    parts = parts_of(model)
    budgets = [options.token_budget] if options.token_budget else BUDGETS
    for budget in budgets:
        graphs = options.graph_bytes if options.graph_bytes is not None else min(GRAPH_BYTES, free // 8)
        tried = replace(options, token_budget=budget, graph_bytes=graphs)
        plan = make_plan(parts, dtype=dtype, backend=backend, options=tried)
        if plan.bytes <= free:
            return tried, plan
    parts_of_it = ", ".join(f"{row.name} {row.bytes / 2**30:.1f}" for row in plan.rows)
    raise MemoryShortage(
        f"{plan.name} needs {plan.bytes / 2**30:.1f} GiB on the device and {free / 2**30:.1f} are free "
        f"({parts_of_it}): use dtype fp8, smaller caches or another device"
    )


def held(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))


def _reference_share(parts: CheckpointShapes) -> int:
    """Percent of a request's tokens that are references, with as many as it can have."""
    width, height = parts.config.default_size
    canvas = parts.config.garment_canvas
    each = canvas[0] * canvas[1] if canvas else parts.config.garment_area
    references = width * height + each * max(1, parts.config.max_references - 1)
    return 100 * references // (references + width * height)
