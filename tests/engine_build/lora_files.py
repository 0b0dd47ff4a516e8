"""Random LoRA files for a model's blocks, strong enough to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine_build.model.adapters import PageLayout
from engine_build.model.mmdit import MMDiT


def write_lora(
    path: Path, sizes: dict[str, tuple[int, int]], seed: int, rank: int = 4, wanted: Callable[[str], bool] = bool
) -> Path:
    """A LoRA of the layers that are wanted, with a file's own alpha."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, (made, width) in sizes.items():
        if wanted(layer):
            tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(rank, width, generator=g) / width**0.5
            tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(made, rank, generator=g) * 0.3
            tensors[f"transformer.{layer}.alpha"] = torch.tensor(rank**0.5)
    save_file(tensors, path)
    return path


def four(folder: Path, model: MMDiT, sizes: dict[str, tuple[int, int]] | None = None) -> list[Path]:
    """Four that have little in common: everything, text alone, the last block with a large rank, some projections.

    `sizes` are those of a model that has adapters beside its linears already.
    """
    sizes = sizes or PageLayout.of(model).sizes
    last = f"single_transformer_blocks.{model.config.num_single_layers - 1}."
    return [
        write_lora(folder / "all.safetensors", sizes, 1),
        write_lora(folder / "text.safetensors", sizes, 2, 8, lambda name: "add_" in name or "context" in name),
        write_lora(folder / "last.safetensors", sizes, 3, 40, lambda name: name.startswith(last)),
        write_lora(
            folder / "some.safetensors", sizes, 4, 16, lambda name: name.endswith(("to_q", "linear_in", "proj"))
        ),
    ]
