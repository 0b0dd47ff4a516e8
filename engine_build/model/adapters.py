"""LoRA files as adapters: checked against a model and laid out in pages on the host, ready for a bank.

A page holds `RANK` of rank of every adaptable linear, all in one row of memory, so that a place of a bank is filled by
one copy. A LoRA of a larger rank takes several pages, which add up as several LoRAs do; one of a smaller rank is filled
up with zeros. The scale of the file (alpha / rank) is in the page.

Letters: P pages of an adapter, A places, R = RANK, D width in, M width out of a linear.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from engine_build.errors import CheckpointError
from engine_build.model.lora import read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.model.tensor_files import listing
from kernels.fp8 import Fp8Linear

RANK = 16
BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
"""Where adaptable linears are: what lies outside embeds tokens, modulates all blocks or ends a pass."""


@dataclass(eq=False)
class Adapter:
    """A LoRA by its content: `pages (P, elements)` on the host, the layers it changes.

    `version` is the SHA-256 of its file. A bank on a GPU moves the pages to page-locked memory before it loads them.
    """

    version: str
    pages: Tensor
    layers: frozenset[str]

    @property
    def bytes(self) -> int:
        return self.pages.numel() * self.pages.element_size()


Mixture = tuple[tuple[Adapter, float], ...]
"""Adapters and their scales, which add up; in the order of their versions, so that equal mixtures are equal."""


@dataclass(frozen=True)
class PageLayout:
    """Where each adaptable linear's down and up lie in a page; `sizes` are (M, D) by name."""

    sizes: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, model: MMDiT) -> PageLayout:
        """The layout of a model's blocks, whose linears are plain or FP8."""
        sizes: dict[str, tuple[int, int]] = {}
        for name, module in model.named_modules():
            if name.startswith(BLOCKS) and isinstance(module, nn.Linear | Fp8Linear):
                made, width = (module.weight if isinstance(module, nn.Linear) else module.values).shape
                sizes[name] = made, width
        return cls(sizes)

    @cached_property
    def elements(self) -> int:
        """Numbers in a page."""
        return sum(RANK * (made + width) for made, width in self.sizes.values())

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each linear's part begins."""
        ends = accumulate((RANK * (made + width) for made, width in self.sizes.values()), initial=0)
        return dict(zip(self.sizes, ends, strict=False))

    def parts(self, pages: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """A linear's down `(A, R, D)` and up `(A, M, R)` in pages `(A, elements)`, which they share memory with."""
        (made, width), start = self.sizes[layer], self.offsets[layer]
        middle, end = start + RANK * width, start + RANK * (made + width)
        return pages[:, start:middle].unflatten(1, (RANK, width)), pages[:, middle:end].unflatten(1, (made, RANK))

    def read(self, path: Path, dtype: torch.dtype) -> Adapter:
        """A LoRA file in pages. Raises CheckpointError when it is none, or changes what no adapter can change."""
        lora = read_lora(path)
        if outside := sorted(layer for layer in lora.layers if not layer.startswith(BLOCKS)):
            raise CheckpointError(
                f"{path} changes {listing(outside)}, outside of the blocks, where requests cannot differ: "
                "bake it in at start with loras instead of adding it as an adapter"
            )
        if unknown := sorted(set(lora.layers) - set(self.sizes)):
            raise CheckpointError(f"{path} changes layers the model does not have: {listing(unknown)}")
        ranks = [part.down.shape[0] for part in lora.layers.values()]
        pages = torch.zeros(max(1, -(-max(ranks) // RANK)), self.elements, dtype=dtype)
        for layer, part in lora.layers.items():
            found = part.up.shape[0], part.down.shape[1]
            if found != self.sizes[layer]:
                raise CheckpointError(f"{path} changes {layer} as {found}, the model has {self.sizes[layer]}")
            down, up = self.parts(pages, layer)
            scaled = part.scale * part.up.float()
            for page, start in enumerate(range(0, part.down.shape[0], RANK)):
                rank = min(RANK, part.down.shape[0] - start)
                down[page, :rank] = part.down[start : start + rank]
                up[page, :, :rank] = scaled[:, start : start + rank]
        if not bool(torch.isfinite(pages).all()):
            raise CheckpointError(f"{path} holds numbers that are not finite in {str(dtype).removeprefix('torch.')}")
        return Adapter(hashlib.sha256(path.read_bytes()).hexdigest(), pages, frozenset(lora.layers))
