"""Flat product shots: each garment on the mannequin, without the mannequin, on a light ground.

A shot is framed by its garment, then turned, zoomed and shifted; a pattern keeps its scale on the body.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from engine_build.world.body import MANNEQUIN, RACK, Skeleton, skeletons, surface
from engine_build.world.cloth import cloth
from engine_build.world.garments import anchor, cut, fields, from_own_coordinates
from engine_build.world.shapes import columns, cover, paint
from engine_build.world.specs import GarmentSpec, Shot, Worn

TRAINING_SHOT = 48

_SEARCH = {
    "tops": (0.375, 0.395, 0.52),
    "pants": (0.375, 0.665, 0.62),
    "skirts": (0.375, 0.580, 0.50),
    "dresses": (0.375, 0.480, 0.72),
    "coats": (0.375, 0.455, 0.66),
    "shoes": (0.375, 0.905, 0.30),
    "bags": (0.500, 0.410, 0.44),
    "hats": (0.375, 0.080, 0.34),
}
"""Centre and side of a square around each category on the mannequin, in which a shot looks for its frame."""
_SEARCH_CELLS = 24


def product_shots(specs: list[GarmentSpec], shots: list[Shot], size: int = TRAINING_SHOT) -> Tensor:
    """Flat product shots (N, 3, size, size) of N garments, each turned, zoomed and shifted by its shot."""
    out = torch.empty(len(specs), 3, size, size)
    for category in _SEARCH:
        rows = [i for i, g in enumerate(specs) if g.category == category]
        if rows:
            index = torch.tensor(rows)
            out[index] = _shots_of(category, [specs[i] for i in rows], [shots[i] for i in rows], size)
    return out


def places_on_shots(
    category: str, specs: list[GarmentSpec], shots: list[Shot], u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the points (u, v) of N garments of one category lie on their product shots.

    ``u`` and ``v`` (N, h, w) are right and down of the garment's anchor, in units of a picture's height; of shoes, see
    ``garments.own_coordinates``. Returns places (N, h, w, 2) as shares of the shot's width and height, and whether the
    shot shows the garment there (N, h, w).
    """
    f = _framed(category, specs, shots)
    x, y = from_own_coordinates(category, f.body, f.worn, u, v)
    dx, dy = (x - f.cx) / f.span, (y - f.cy) / f.span
    cos, sin = f.shot.turn.cos(), f.shot.turn.sin()
    column, row = dx * cos - dy * sin + f.shot.dx + 0.5, dx * sin + dy * cos + f.shot.dy + 0.5
    on_picture = (column >= 0) & (column < 1) & (row >= 0) & (row < 1)
    shown = cut(category, f.body, f.worn, x, y, 1.0).distance < 0
    return torch.stack([column, row], -1), shown & on_picture


@dataclass(frozen=True, slots=True)
class _Framed:
    """N garments of one category on their mannequins, and where their shots look: centre and width of the view."""

    body: Skeleton
    worn: SimpleNamespace
    shot: SimpleNamespace
    cx: Tensor
    cy: Tensor
    span: Tensor


def _framed(category: str, specs: list[GarmentSpec], shots: list[Shot]) -> _Framed:
    nobody = torch.zeros(len(specs), dtype=torch.long)
    body = skeletons([RACK if category == "shoes" else MANNEQUIN]).pick(nobody)
    worn = fields([Worn(spec, coat_open=False) for spec in specs])
    cx, cy, side = _frames(category, body, worn)
    shot = columns([(s.turn, s.zoom, *s.shift) for s in shots], ("turn", "zoom", "dx", "dy"))
    return _Framed(body, worn, shot, cx, cy, 1.22 * side / shot.zoom)


def _frames(category: str, s: Skeleton, g: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and side (N, 1, 1) of the square that just holds each flat garment."""
    cx, cy, side = _SEARCH[category]
    axis = ((torch.arange(_SEARCH_CELLS) + 0.5) / _SEARCH_CELLS - 0.5) * side
    x, y = (cx + axis).view(1, 1, -1), (cy + axis).view(1, -1, 1)
    cell = side / _SEARCH_CELLS
    inside = cut(category, s, g, x, y, 1.0 / cell).distance < 0.5 * cell
    ends = []
    for grid, over in ((x, 1), (y, 2)):
        hit = inside.any(dim=over).view(-1, 1, _SEARCH_CELLS)
        line = grid.reshape(1, 1, -1)
        low = torch.where(hit, line, torch.inf).amin(2, keepdim=True)
        high = torch.where(hit, line, -torch.inf).amax(2, keepdim=True)
        ends.append((low, high))
    (x0, x1), (y0, y1) = ends
    return (x0 + x1) / 2, (y0 + y1) / 2, torch.maximum(x1 - x0, y1 - y0) + cell


def _shots_of(category: str, specs: list[GarmentSpec], shots: list[Shot], size: int) -> Tensor:
    f = _framed(category, specs, shots)
    axis = (torch.arange(size) + 0.5) / size - 0.5
    px, py = axis.view(1, 1, size) - f.shot.dx, axis.view(1, size, 1) - f.shot.dy
    cos, sin = f.shot.turn.cos() * f.span, f.shot.turn.sin() * f.span
    x, y = f.cx + px * cos + py * sin, f.cy - px * sin + py * cos
    scale = size / f.span
    shape = cut(category, f.body, f.worn, x, y, scale)
    ax, ay = anchor(category, f.body, f.worn)
    ground = torch.tensor([s.ground for s in shots])[:, :, None, None]
    canvas = ground * (1.02 - 0.06 * (py + 0.5) + 0.0 * px).unsqueeze(1)
    cast = (0.5 - (shape.distance * scale) / (0.10 * size)).clamp(0.0, 1.0)
    canvas.mul_((1.0 - 0.14 * cast).unsqueeze(1))
    colour = cloth(specs, shape, x - ax, y - ay, surface(shape.distance, y), scale)
    paint(canvas, cover(shape.distance, scale), colour)
    shot: Tensor = canvas.clamp_(0.0, 1.0)
    return shot
