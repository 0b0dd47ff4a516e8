"""Colour of cloth: seven patterns drawn in a garment's own coordinates, so they move and turn with it."""

import math

import torch
from torch import Tensor

from engine_build.world.shapes import Cut, cover
from engine_build.world.specs import LOGOS, PALETTE, PATTERNS, GarmentSpec

_LOGO_AT = {
    "tops": (0.0, 0.085),
    "dresses": (0.0, 0.085),
    "coats": (0.080, 0.085),
    "pants": (0.050, 0.330),
    "skirts": (0.040, 0.300),
    "bags": (0.0, 0.012),
    "hats": (0.0, -0.040),
}
_LOGO_SIZE = {"bags": 0.034, "hats": 0.028, "pants": 0.038}
_TRIM = {"coats": (0.93, 0.82, 0.52), "shoes": (0.96, 0.95, 0.93), "bags": (0.93, 0.78, 0.38)}
_ORDER = {name: i for i, name in enumerate(PATTERNS)}


def base_colours(specs: list[GarmentSpec]) -> tuple[Tensor, Tensor, Tensor]:
    """First colour, second colour and trim of N garments, each (N, 3) in [0, 1]."""
    first = [[min(1.0, c + t) for c, t in zip(PALETTE[g.colour], g.tint, strict=True)] for g in specs]
    second = [PALETTE[g.colour2] for g in specs]
    trim = [_trim(g) for g in specs]
    return torch.tensor(first), torch.tensor(second), torch.tensor(trim)


def _trim(g: GarmentSpec) -> tuple[float, float, float]:
    if (g.category == "shoes" and g.colour in ("white", "grey")) or g.category == "hats":
        return PALETTE[g.colour2]
    if g.category == "coats" and g.colour in ("yellow", "white", "orange"):
        return (0.30, 0.20, 0.14)
    return _TRIM.get(g.category, (0.5, 0.5, 0.5))


def pattern_mix(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    """Share of the second colour, (N, h, w), at garment coordinates ``u`` (right) and ``v`` (down).

    ``u`` and ``v`` broadcast to (N, h, w), are in units of a picture's height and start at the garment's
    anchor; ``scale`` is pixels per unit, a float or (N, 1, 1).
    """
    shape = torch.broadcast_shapes(u.shape, v.shape)
    mix = torch.zeros(shape)
    kinds = [_ORDER[g.pattern] for g in specs]
    for name, kind in _ORDER.items():
        rows = [i for i, k in enumerate(kinds) if k == kind]
        if name == "plain" or not rows:
            continue
        index = torch.tensor(rows)
        chosen = [specs[i] for i in rows]
        su = u[index] if u.shape[0] > 1 else u
        sv = v[index] if v.shape[0] > 1 else v
        sc = scale[index] if isinstance(scale, Tensor) else scale
        mix[index] = _PAINTERS[name](chosen, su, sv, sc).expand(len(rows), *shape[1:])
    return mix


def cloth(
    specs: list[GarmentSpec], shape: Cut, u: Tensor, v: Tensor, light: Tensor, scale: float | Tensor
) -> Tensor:
    """Colours (N, 3, h, w) of garments whose geometry is ``shape``."""
    first, second, trim = (c[:, :, None, None] for c in base_colours(specs))
    mix = pattern_mix(specs, u, v, scale).unsqueeze(1)
    colour = first + (second - first) * mix
    colour.mul_((shape.tone * light).unsqueeze(1))
    if shape.trim is not None:
        colour.add_((trim - colour).mul_(shape.trim.unsqueeze(1)))
    return colour.clamp_(0.0, 1.0)


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def _wave(position: Tensor, period: Tensor, phase: Tensor, scale: float | Tensor) -> Tensor:
    """A square wave with anti-aliased edges, half of each period on."""
    t = torch.remainder(position / period + phase, 1.0)
    return cover(((t - 0.5).abs() - 0.25) * period, scale)


def _period(specs: list[GarmentSpec]) -> Tensor:
    return _column([g.period for g in specs])


def _phases(specs: list[GarmentSpec]) -> tuple[Tensor, Tensor]:
    return _column([g.phase[0] for g in specs]), _column([g.phase[1] for g in specs])


def _stripes(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    return _wave(v, _period(specs), _phases(specs)[1], scale)


def _vertical(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    return _wave(u, _period(specs), _phases(specs)[0], scale)


def _checks(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    period, (a, b) = _period(specs) * 1.1, _phases(specs)
    return 0.5 * (_wave(u, period, a, scale) + _wave(v, period, b, scale))


def _dots(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    period, (a, b) = _period(specs) * 0.95, _phases(specs)
    row = v / period + b
    odd = torch.remainder(torch.floor(row), 2.0)
    du = torch.remainder(u / period + a + 0.5 * odd, 1.0) - 0.5
    dv = torch.remainder(row, 1.0) - 0.5
    return cover(((du * du + dv * dv).sqrt() - 0.31) * period, scale)


def _print(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    period, (a, b) = _period(specs) * 1.5, _phases(specs)
    k = 2.0 * math.pi / period
    turn = 2.0 * math.pi
    x = torch.sin(u * k + 1.4 * torch.sin(v * k * 0.61 + turn * b) + turn * a)
    y = torch.sin(v * k * 0.83 + 1.4 * torch.sin(u * k * 0.72 + turn * a) + turn * b)
    return cover((0.25 - x - y) * period * 0.12, scale)


def _logo(specs: list[GarmentSpec], u: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    at = [_LOGO_AT[g.category] for g in specs]
    size = _column([_LOGO_SIZE.get(g.category, 0.046) for g in specs])
    shape = _column([float(LOGOS.index(g.logo)) for g in specs])
    x, y = (u - _column([p[0] for p in at])) / size, (v - _column([p[1] for p in at])) / size
    ax, ay = x.abs(), y.abs()
    disc = (x * x + y * y).sqrt() - 1.0
    ring = (disc + 0.25).abs() - 0.27
    diamond = (ax + ay - 1.25) * 0.71
    cross = torch.maximum(torch.minimum(ax, ay) - 0.34, torch.maximum(ax, ay) - 1.0)
    d = torch.where(shape == 0, disc, torch.where(shape == 1, ring, torch.where(shape == 2, diamond, cross)))
    return cover(d * size, scale)


_PAINTERS = {
    "stripes": _stripes,
    "vertical_stripes": _vertical,
    "checks": _checks,
    "dots": _dots,
    "print": _print,
    "logo": _logo,
}
