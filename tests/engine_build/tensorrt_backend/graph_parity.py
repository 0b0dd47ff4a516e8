"""Tiny models of every reference attention, exported and compared with torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine_build.config import PRESETS, ReferenceAttention
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch, Reference, Sequence, grid_ids, pack

SHAPE = replace(PRESETS["nano"], num_layers=1, num_single_layers=1, num_attention_heads=2, joint_attention_dim=24)


def tiny_model(mode: ReferenceAttention, guidance: bool = False) -> MMDiT:
    """Random weights with every gate open."""
    torch.manual_seed(0)
    model = MMDiT(replace(SHAPE, reference_attention=mode, guidance_embeds=guidance)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if "modulation" in name or "norm_out" in name or "proj_out" in name:
            weight.normal_(0, 0.1)
        elif weight.ndim == 1:
            weight.uniform_(0.5, 1.5)
    return model


def tiny_batch(
    *requests: tuple[int, tuple[int, int], tuple[tuple[int, int], ...]], guidance: bool = False
) -> PackedBatch:
    """Requests of (text tokens, target grid, reference grids), random, each at its own noise level."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    sequences = []
    for i, (text, grid, grids) in enumerate(requests):
        shown = tuple(
            Reference(draw(h * w, SHAPE.in_channels), grid_ids(h, w, 10 * (j + 1))) for j, (h, w) in enumerate(grids)
        )
        target = draw(grid[0] * grid[1], SHAPE.in_channels)
        sequences.append(
            Sequence(
                draw(text, SHAPE.joint_attention_dim),
                target,
                grid_ids(*grid),
                0.9 / (i + 1),
                shown,
                guidance=3.5 + i if guidance else None,
            )
        )
    return pack(sequences)


def worst(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over largest value."""
    return float((got - want).abs().max() / want.abs().max())


def onnx_initialisers(path: Path) -> dict[str, int]:
    """dtype of every weight in a file."""
    import onnx

    return {x.name: x.data_type for x in onnx.load(path, load_external_data=False).graph.initializer}
