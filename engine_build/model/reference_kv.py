"""What an MMDiT keeps from step to step: keys and values of references, embedded text, tables.

Letters as in `engine_build.model.mmdit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import Route, Segments
from kernels.segments import Interleaved

Rope = tuple[Tensor, Tensor]  # cos, sin: (T, E/2) float32


@dataclass(frozen=True)
class ReferenceKV:
    """Keys and values of reference tokens in every layer: `layers` tensors `(P, H, E)` each.

    Keys are RMS-normed and rotated on all four axes; `slots` holds, per reference, the t-coordinate that
    was applied. RoPE angles add, so a reference encoded by itself at t = 0 serves any slot:
    `MMDiT.place` turns its keys by the difference on the t axis only.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    segments: Segments
    counts: tuple[int, ...]
    slots: Tensor

    @property
    def group_segments(self) -> Segments:
        """Reference tokens per request."""
        return self.segments.grouped(self.counts)

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))

    def single(self) -> list[ReferenceKV]:
        """One entry per reference, views into this one. Independent only in `isolated` checkpoints."""
        keys = [k.split(self.segments.lengths) for k in self.keys]
        values = [v.split(self.segments.lengths) for v in self.values]
        return [
            ReferenceKV(
                tuple(k[i] for k in keys),
                tuple(v[i] for v in values),
                Segments((length,)),
                (1,),
                self.slots[i : i + 1],
            )
            for i, length in enumerate(self.segments.lengths)
        ]

    @staticmethod
    def join(requests: list[list[ReferenceKV]]) -> ReferenceKV:
        """The references of several requests as one. Raises ValueError when there is none at all."""
        parts = [part for request in requests for part in request]
        if not parts:
            raise ValueError("no references to join")
        return ReferenceKV(
            tuple(torch.cat(layer) for layer in zip(*(p.keys for p in parts), strict=True)),
            tuple(torch.cat(layer) for layer in zip(*(p.values for p in parts), strict=True)),
            Segments(tuple(n for p in parts for n in p.segments.lengths)),
            tuple(sum(len(p.segments) for p in request) for request in requests),
            torch.cat([p.slots for p in parts]),
        )


@dataclass(frozen=True)
class Prefix:
    """Keys and values that the main pass attends besides its own, one group of them for `draws` sequences."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    segments: Segments
    draws: int = 1

    def layer(self, index: int) -> dict[str, object]:
        """Keyword arguments of `kernels.attention` for one layer."""
        return {
            "prefix_k": self.keys[index],
            "prefix_v": self.values[index],
            "prefix_segments": self.segments,
            "draws": self.draws,
        }


@dataclass(frozen=True)
class StepConstants:
    """What stays the same from step to step of a batch.

    text `(Tt, D)` and references `(P, D)` embedded, references only where they are joint; `image` tells how
    target and references make the image stream, `joint` how text and image make the joint sequence.
    `route` tells the adapters of every sequence, None when none has any.
    """

    text: Tensor
    references: Tensor
    text_rope: Rope
    image_rope: Rope
    joint_rope: Rope
    image: Interleaved
    joint: Interleaved
    prefix: Prefix | None = None
    guidance: Tensor | None = None
    route: Route | None = None

    def attending(self, layer: int) -> dict[str, object]:
        """Keyword arguments of `kernels.attention` in a layer, counted through both kinds of blocks."""
        return self.prefix.layer(layer) if self.prefix else {}

    def targets(self, x: Tensor) -> Tensor:
        """The target's rows `(sum L, ...)` of the joint sequence `(T, ...)`."""
        return self.image.split(self.joint.split(x)[1])[0]
