"""A linear with low-rank adapters beside its weights, each packed sequence with its own, and some of its outputs.

Weights are never touched: a pass says, before its first linear, which sequences its streams are made of and which
adapters each of them goes through (`Pass`); nothing is switched for all requests. Without a route, and for a layer that
none of a route's adapters changes, an adapted linear costs what its linear costs.

Letters as in `engine_build.model.mmdit`, and as in `kernels.reference`: A places, R rank, D width in, M width out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kernels import Kernels, Route, Segments
from kernels.fp8 import Fp8Linear, Rows

Stream = Literal["text", "image", "joint", "target"]


@dataclass(frozen=True)
class Pass:
    """The adapters of each sequence of a pass, and the segments of its streams."""

    route: Route
    segments: dict[Stream, Segments]


@dataclass
class Adapting:
    """What all adapted linears of a model share: kernels, the pass they are in, and what each place changes.

    `current` is None for a pass without adapters. `changed` holds the layers that the adapter of a place changes.
    """

    kernels: Kernels
    current: Pass | None = None
    changed: dict[int, frozenset[str]] = field(default_factory=dict)

    def enter(self, route: Route | None, **segments: Segments) -> None:
        """The next pass, which stays until another enters."""
        self.current = None if route is None else Pass(route, dict(segments))  # type: ignore[arg-type]

    def concerns(self, layer: str, route: Route) -> bool:
        """Whether a layer has anything to add. Always for a `fixed` route: a graph runs it with other adapters."""
        return route.fixed or any(layer in self.changed.get(place, ()) for pairs in route.pairs for place, _ in pairs)


class AdaptedLinear(nn.Module):
    """A bias-free linear `(T, D)` to `(T, M)` and its part of every place: down `(A, R, D)`, up `(A, M, R)`."""

    def __init__(
        self, layer: str, base: nn.Linear | Fp8Linear, down: Tensor, up: Tensor, stream: Stream, adapting: Adapting
    ) -> None:
        super().__init__()
        self.layer, self.base, self.stream = layer, base, stream
        self.down, self.up = down, up
        self.adapting = adapting

    def forward(self, x: Rows) -> Tensor:
        return self.rows(x, slice(None), self.stream)

    def rows(self, x: Rows, rows: slice, stream: Stream) -> Tensor:
        """Only some of the outputs, of a stream's tokens."""
        y = some(self.base, x, rows, stream)
        current = self.adapting.current
        if current is None or not self.adapting.concerns(self.layer, current.route):
            return y
        add = self.adapting.kernels.add_low_rank
        return add(y, x, self.down, self.up[:, rows], current.route, current.segments[stream])


def some(linear: nn.Module, x: Rows, rows: slice, stream: Stream) -> Tensor:
    """Some of a linear's outputs, of a stream's tokens. A linear of another kind computes all of them."""
    if isinstance(linear, AdaptedLinear):
        return linear.rows(x, rows, stream)
    if isinstance(linear, Fp8Linear):
        return linear.rows(x, rows)
    if type(linear) is nn.Linear and isinstance(x, Tensor):
        return F.linear(x, linear.weight[rows])
    whole: Tensor = linear(x)
    return whole[:, rows]


def plain(linear: nn.Module) -> nn.Module:
    """The linear itself, without adapters."""
    return linear.base if isinstance(linear, AdaptedLinear) else linear
