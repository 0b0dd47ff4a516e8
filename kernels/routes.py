"""Which low-rank adapters each packed sequence goes through, on the host and in tables on the device.

A place is where an adapter lies in a stack of adapters. As with `Segments`, the host's numbers choose code paths
without waiting for a GPU, and `onto` writes other numbers into tables that a CUDA graph has baked in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from kernels.segments import Segments

Pairs = tuple[tuple[int, float], ...]
"""(place, scale) of every adapter of one sequence; empty for none."""


@dataclass(frozen=True)
class Route:
    """The adapters of N packed sequences, at most `width` each; 0 is as wide as its widest.

    `fixed` is a route whose tables a graph reads: nothing may be left out because of what it says today.
    Raises ValueError for a sequence with more than a given width.
    """

    pairs: tuple[Pairs, ...]
    width: int = 0
    fixed: bool = False
    _on_device: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        widest = max(map(len, self.pairs), default=0)
        if self.width and self.width < widest:
            raise ValueError(f"{widest} adapters of a sequence do not fit a route {self.width} wide")
        object.__setattr__(self, "width", self.width or widest)

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def rows(self) -> tuple[Pairs, ...]:
        """`pairs` filled up to the width with (-1, 0.0)."""
        return tuple((*pairs, *((-1, 0.0),) * (self.width - len(pairs))) for pairs in self.pairs)

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Places `(N, width)` int32, -1 behind each sequence's last, and scales `(N, width)` float32."""
        if device not in self._on_device:
            slots, scales = (_pinned(table, device) for table in self._host_tables())
            self._on_device[device] = slots.to(device, non_blocking=True), scales.to(device, non_blocking=True)
        return self._on_device[device]

    def filled(self, sequences: int, width: int) -> Route:
        """With sequences behind it that have no adapters, `width` wide and `fixed`."""
        return Route((*self.pairs, *((),) * (sequences - len(self))), width, fixed=True)

    def onto(self, other: Route) -> Route:
        """This route with the device tables of `other`, which are overwritten; both `fixed`.

        Raises ValueError unless both have the same number of sequences and the same width.
        """
        if not (self.fixed and other.fixed) or (len(self), self.width) != (len(other), other.width):
            raise ValueError(f"{self} cannot take the tables of {other}")
        for tables in other._on_device.values():
            for table, made in zip(tables, self._host_tables(), strict=True):
                table.copy_(_pinned(made, table.device), non_blocking=True)
        return Route(self.pairs, self.width, True, other._on_device)

    def runs(self, segments: Segments) -> Iterator[tuple[int, int, Pairs]]:
        """Rows from a start to a stop that share their adapters, as long as can be: (start, stop, pairs)."""
        start = 0
        for i, pairs in enumerate(self.pairs):
            stop = segments.offsets[i + 1]
            if i + 1 < len(self) and self.pairs[i + 1] == pairs:
                continue
            if stop > start:
                yield start, stop, pairs
            start = stop

    def _host_tables(self) -> tuple[Tensor, Tensor]:
        slots = torch.tensor([[slot for slot, _ in row] for row in self.rows], dtype=torch.int32)
        scales = torch.tensor([[scale for _, scale in row] for row in self.rows], dtype=torch.float32)
        return slots.view(len(self), self.width), scales.view(len(self), self.width)


def _pinned(table: Tensor, device: torch.device) -> Tensor:
    """In page-locked memory when it is bound for a GPU, so that the copy waits for nothing."""
    return table.pin_memory() if device.type == "cuda" else table
