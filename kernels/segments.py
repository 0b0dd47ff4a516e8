"""Lengths of the sequences packed into one flat tensor, and two packed tensors as one.

Lengths stay on the host, so choosing a code path never waits for a GPU; `cu_seqlens` and `tiles` give
kernels the same numbers on the device. A CUDA graph bakes in where those tables lie, not what they say:
`fixed` segments have tables of sizes that depend on totals alone, and `onto` writes other lengths into them.
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
    fixed: bool = False
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
            self._on_device[device] = _on(device, torch.tensor(self.offsets, dtype=torch.int32))
        return self._on_device[device]

    def tiles(self, size: int, device: torch.device) -> Tensor:
        """Every block of up to `size` tokens as (sequence, block in it): `(G, 2)` int32 on the device.

        Longest sequences first, so that the last programs of a grid are the short ones. `fixed` segments fill
        the table up to `total // size + N` rows with blocks beyond the end of the shortest sequence.
        """
        key = (size, device)
        if key not in self._on_device:
            self._on_device[key] = _on(device, self._tile_table(size))
        return self._on_device[key]

    def onto(self, other: "Segments") -> "Segments":
        """These lengths with the device tables of `other`, which are overwritten; both `fixed`.

        Raises ValueError unless both have the same number of sequences and the same total.
        """
        if not (self.fixed and other.fixed) or (len(self), self.total) != (len(other), other.total):
            raise ValueError(f"{self} cannot take the tables of {other}")
        for key, table in other._on_device.items():
            made = self._tile_table(key[0]) if isinstance(key, tuple) else torch.tensor(self.offsets, dtype=torch.int32)
            table.copy_(_pinned(made, table.device), non_blocking=True)
        return Segments(self.lengths, True, other._on_device)

    def _tile_table(self, size: int) -> Tensor:
        order = sorted(range(len(self)), key=lambda i: -self.lengths[i])
        table = [(i, block) for i in order for block in range(-(-self.lengths[i] // size))]
        if self.fixed and order:
            last = order[-1]
            beyond = (last, -(-self.lengths[last] // size))
            table += [beyond] * (self.total // size + len(self) - len(table))
        return torch.tensor(table, dtype=torch.int32).view(-1, 2)

    def per_token(self, rows: Tensor) -> Tensor:
        """`(N, ...)` rows repeated to `(total, ...)`."""
        if len(self) == 1:
            return rows.expand(self.total, *rows.shape[1:])
        repeats = self.cu_seqlens(rows.device).diff()
        return torch.repeat_interleave(rows, repeats, dim=0, output_size=self.total)

    def grouped(self, counts: tuple[int, ...]) -> "Segments":
        """Segments of consecutive groups: `counts` of these segments each."""
        bounds = list(accumulate(counts, initial=0))
        return Segments(tuple(self.offsets[b] - self.offsets[a] for a, b in pairwise(bounds)), self.fixed)

    def plus(self, other: "Segments") -> "Segments":
        """Lengths added sequence by sequence: the segments of `join`."""
        return Segments(tuple(a + b for a, b in zip(self.lengths, other.lengths, strict=True)), self.fixed)


@dataclass(frozen=True)
class Heads:
    """One stream's attention inputs before the norms: q, k, v `(T, H, E)`, RMSNorm weights `(E,)`, RoPE `(T, E/2)`."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor
    k_weight: Tensor
    cos: Tensor
    sin: Tensor

    @property
    def to_norm(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `qk_norm_rope`, without its eps."""
        return self.q, self.k, self.q_weight, self.k_weight, self.cos, self.sin


@dataclass(frozen=True)
class Interleaved:
    """Two packed tensors as one: each sequence of the first followed by the same sequence of the second.

    `fixed` segments are joined and split by row tables on the device, others by their lengths.
    """

    first: Segments
    second: Segments
    _on_device: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def segments(self) -> Segments:
        return self.first.plus(self.second)

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the tokens of each go in the whole: `(T1,)` and `(T2,)` int32 on the device."""
        if device not in self._on_device:
            first, second = self._row_tables()
            self._on_device[device] = _on(device, first), _on(device, second)
        return self._on_device[device]

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """`(T1, ...), (T2, ...) -> (T1 + T2, ...)`."""
        if not self.first.fixed or not a.shape[0] or not b.shape[0]:
            return join(a, self.first, b, self.second)
        out = a.new_empty(a.shape[0] + b.shape[0], *a.shape[1:])
        for rows, x in zip(self.rows(a.device), (a, b), strict=True):
            out.index_copy_(0, rows.long(), x)
        return out

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `join`."""
        if not self.first.fixed or not self.first.total or not self.second.total:
            return split(x, self.first, self.second)
        first, second = self.rows(x.device)
        return x.index_select(0, first), x.index_select(0, second)

    def onto(self, other: "Interleaved") -> "Interleaved":
        """These lengths with the device tables of `other`, as `Segments.onto`."""
        for tables in other._on_device.values():
            for table, made in zip(tables, self._row_tables(), strict=True):
                table.copy_(_pinned(made, table.device), non_blocking=True)
        moved = Interleaved(self.first.onto(other.first), self.second.onto(other.second), other._on_device)
        moved.__dict__["segments"] = self.segments.onto(other.segments)
        return moved

    def _row_tables(self) -> tuple[Tensor, Tensor]:
        whole = self.segments.offsets
        rows: tuple[list[int], list[int]] = ([], [])
        for i, (a, b) in enumerate(zip(self.first.lengths, self.second.lengths, strict=True)):
            rows[0].extend(range(whole[i], whole[i] + a))
            rows[1].extend(range(whole[i] + a, whole[i] + a + b))
        return torch.tensor(rows[0], dtype=torch.int32), torch.tensor(rows[1], dtype=torch.int32)


def _on(device: torch.device, table: Tensor) -> Tensor:
    return _pinned(table, device).to(device, non_blocking=True)


def _pinned(table: Tensor, device: torch.device) -> Tensor:
    """In page-locked memory when it is bound for a GPU, so that the copy waits for nothing."""
    return table.pin_memory() if device.type == "cuda" else table


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
