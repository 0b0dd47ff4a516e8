"""Signed distances and their coverage, broadcast over a batch of pictures.

Shapes: N pictures, h rows, w columns. ``x`` is (1|N, 1, w) and ``y`` (1|N, h, 1) for pictures that share the
upright grid, or both (N, h, w) for turned ones; parameters are (N, 1, 1). All float32. A distance is negative
inside, in units of the picture's height; ``scale`` is pixels per unit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor


@dataclass(slots=True)
class Cut:
    """A garment's outline on N pictures, a factor for seams, the coverage of its trim; each (N, h, w)."""

    distance: Tensor
    tone: Tensor
    trim: Tensor | None = None


def columns(rows: Sequence[Sequence[float]], names: Iterable[str]) -> SimpleNamespace:
    """Pack N rows of P numbers into P named tensors of shape (N, 1, 1)."""
    table = torch.tensor(rows, dtype=torch.float32)
    return SimpleNamespace(**{n: table[:, i, None, None] for i, n in enumerate(names)})


def select(fields: SimpleNamespace, index: Tensor) -> SimpleNamespace:
    """The rows ``index`` (M,) of every tensor of ``fields``."""
    return SimpleNamespace(**{k: v[index] for k, v in vars(fields).items()})


def cover(distance: Tensor, scale: float | Tensor) -> Tensor:
    """Coverage in [0, 1] of a pixel whose centre lies ``distance`` from the edge."""
    return (0.5 - distance * scale).clamp_(0.0, 1.0)


Length = Tensor | float


def capsule(
    x: Tensor, y: Tensor, ends: tuple[Length, Tensor, Length, Tensor], r0: Length, r1: Length
) -> Tensor:
    """Distance to a tapering segment from (x0, y0), radius r0, to (x1, y1), radius r1."""
    x0, y0, x1, y1 = ends
    bx, by = x1 - x0, y1 - y0
    inverse = 1.0 / (bx * bx + by * by + 1e-9)
    px, py = x - x0, y - y0
    t = (px * (bx * inverse) + py * (by * inverse)).clamp_(0.0, 1.0)
    dx = px - t * bx
    dy = py - t * by
    return (dx * dx).addcmul_(dy, dy).sqrt_().sub_(r0 + t * (r1 - r0))


def ellipse(x: Tensor, y: Tensor, cx: Tensor, cy: Length, rx: Length, ry: Length) -> Tensor:
    """Distance to an ellipse: first order near its edge (so thin ones stay sharp), exact on circles."""
    dx, dy = (x - cx) / rx, (y - cy) / ry
    k = (dx * dx + dy * dy).sqrt_()
    gx, gy = dx / rx, dy / ry
    slope = (gx * gx + gy * gy).sqrt_()
    smaller = torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry))
    return (k - 1.0) * (k + 1e-6) / (slope + 1e-6 / smaller)


def box(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Distance to an axis-parallel box with half sizes rx, ry."""
    return torch.maximum((x - cx).abs() - rx, (y - cy).abs() - ry)


def ramp(v: Tensor, start: Tensor | float, end: Tensor | float) -> Tensor:
    """Smooth step from 0 at ``start`` to 1 at ``end``."""
    t = ((v - start) / (end - start)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def profile(y: Tensor, *knots: tuple[Tensor, Tensor]) -> Tensor:
    """A smooth half width through (height, half width) ``knots`` from top to bottom; shape of ``y``."""
    width = knots[0][1]
    for (y0, w0), (y1, w1) in pairwise(knots):
        width = width + (w1 - w0) * ramp(y, y0, y1)
    return width


def paint(canvas: Tensor, coverage: Tensor, colour: Tensor) -> None:
    """Lay ``colour`` (N, 3, 1|h, 1|w) over ``canvas`` (N, 3, h, w) in place by ``coverage`` (N, h, w)."""
    share = coverage.unsqueeze(1)
    canvas.mul_(1.0 - share).add_(colour * share)
