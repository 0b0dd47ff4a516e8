"""Lengths of the sequences packed into one flat tensor.

Lengths stay on the host, so choosing a code path never waits for a GPU; `cu_seqlens` gives kernels
the same numbers on the device. `join` and `split` interleave two packed tensors per sequence.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Lengths (tokens) of N packed sequences; zero lengths are allowed."""

    lengths: tuple[int, ...]
    _on_device: dict[object, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def total(self) -> int:
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The N+1 boundaries, starting at 0."""
        return tuple(accumulate(self.lengths, initial=0))

    @cached_property
    def uniform(self) -> int | None:
        """The common length, or None when lengths differ or there are no segments."""
        return self.lengths[0] if len(set(self.lengths)) == 1 else None

    @cached_property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Boundaries `(N+1,)` int32 on the device."""
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(self.offsets, dtype=torch.int32, device=device)
        return self._on_device[device]

    def tiles(self, size: int, device: torch.device) -> Tensor:
        """Every block of up to `size` tokens as (sequence, block in it): `(G, 2)` int32 on the device.

        Longest sequences first, so that the last programs of a grid are the short ones.
        """
        key = (size, device)
        if key not in self._on_device:
            order = sorted(range(len(self)), key=lambda i: -self.lengths[i])
            table = [(i, block) for i in order for block in range(-(-self.lengths[i] // size))]
            self._on_device[key] = torch.tensor(table, dtype=torch.int32, device=device).view(-1, 2)
        return self._on_device[key]

    def per_token(self, rows: Tensor) -> Tensor:
        """`(N, ...)` rows repeated to `(total, ...)`."""
        if len(self) == 1:
            return rows.expand(self.total, *rows.shape[1:])
        repeats = self.cu_seqlens(rows.device).diff()
        return torch.repeat_interleave(rows, repeats, dim=0, output_size=self.total)

    def grouped(self, counts: tuple[int, ...]) -> "Segments":
        """Segments of consecutive groups: `counts` of these segments each."""
        bounds = list(accumulate(counts, initial=0))
        return Segments(tuple(self.offsets[b] - self.offsets[a] for a, b in pairwise(bounds)))

    def plus(self, other: "Segments") -> "Segments":
        """Lengths added sequence by sequence: the segments of `join`."""
        return Segments(tuple(a + b for a, b in zip(self.lengths, other.lengths, strict=True)))


def join(a: Tensor, a_segments: Segments, b: Tensor, b_segments: Segments) -> Tensor:
    """Each sequence of `a` followed by the same sequence of `b`: `(Ta, ...), (Tb, ...) -> (Ta + Tb, ...)`."""
    if b_segments.total == 0:
        return a
    if a_segments.total == 0:
        return b
    la, lb, n = a_segments.uniform, b_segments.uniform, len(a_segments)
    if la is not None and lb is not None:
        both = (a.view(n, la, *a.shape[1:]), b.view(n, lb, *b.shape[1:]))
        return torch.cat(both, dim=1).flatten(0, 1)
    pieces = zip(a.split(a_segments.lengths), b.split(b_segments.lengths), strict=True)
    return torch.cat([piece for pair in pieces for piece in pair])


def split(x: Tensor, a_segments: Segments, b_segments: Segments) -> tuple[Tensor, Tensor]:
    """The inverse of `join`."""
    if b_segments.total == 0:
        return x, x[:0]
    if a_segments.total == 0:
        return x[:0], x
    la, lb, n = a_segments.uniform, b_segments.uniform, len(a_segments)
    if la is not None and lb is not None:
        both = x.view(n, la + lb, *x.shape[1:])
        return both[:, :la].flatten(0, 1), both[:, la:].flatten(0, 1)
    lengths = [n for pair in zip(a_segments.lengths, b_segments.lengths, strict=True) for n in pair]
    pieces = x.split(lengths)
    return torch.cat(pieces[::2]), torch.cat(pieces[1::2])
