"""The cut of the eight garment categories, as distances around a ``Skeleton``.

``cut(category, skeleton, fields, x, y, scale)`` returns a ``Cut``: the silhouette's distance, a factor
``tone`` for seams and collars, and the coverage of the trim (soles, buttons, clasps), each (N, h, w).
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from engine_build.world.accessories import bag_anchor, bags, hats, shoes
from engine_build.world.body import RACK, Skeleton, hand_distance
from engine_build.world.shapes import Cut, capsule, columns, cover, ellipse, profile, ramp
from engine_build.world.specs import Worn

_COLLARS = {"crew": 0.0, "v": 1.0, "shirt": 2.0, "turtle": 3.0}
_STYLES = {
    "sneakers": 0,
    "boots": 1,
    "flats": 2,
    "handbag": 0,
    "round bag": 1,
    "tote bag": 2,
    "beanie": 0,
    "cap": 1,
}
FIELDS = ("sleeves", "length", "fit", "collar", "hood", "style", "folds", "tucked", "open", "side", "front")


def fields(worn: list[Worn]) -> SimpleNamespace:
    """The numbers of ``FIELDS`` for N worn garments, each (N, 1, 1)."""
    rows = []
    for w in worn:
        g = w.spec
        rows.append(
            (
                g.sleeves,
                g.length,
                g.fit,
                _COLLARS[g.collar],
                float(g.hood),
                float(_STYLES.get(g.style, 2)),
                w.folds,
                float(w.tucked),
                float(w.coat_open),
                w.bag_side,
                float(w.bag_in_front),
            )
        )
    return columns(rows, FIELDS)


def _sleeves(s: Skeleton, x: Tensor, y: Tensor, reach: Tensor, radius: Tensor) -> Tensor:
    ax, (sx, sy, ex, ey, wx, wy) = s.fold(x)
    u, v = reach.clamp(max=1.0), (reach - 1.0).clamp(min=0.0)
    upper = capsule(ax, y, (sx, sy, sx + (ex - sx) * u, sy + (ey - sy) * u), radius * 1.06, radius)
    lower = capsule(ax, y, (ex, ey, ex + (wx - ex) * v, ey + (wy - ey) * v), radius, radius * 0.92)
    d = torch.minimum(upper, torch.where(v > 0, lower, torch.ones_like(lower)))
    return torch.where(reach > 0, d, torch.ones_like(d))


def _neckline(s: Skeleton, ax: Tensor, y: Tensor, collar: Tensor) -> Tensor:
    """Distance to the opening at the neck, negative inside it."""
    top = s.neck_y
    crew = ellipse(ax, y, torch.zeros_like(top), top + 0.004, 0.034, 0.034)
    vee = torch.maximum((ax + 0.52 * (y - top)) * 0.89 - 0.040, y - top - 0.09)
    d = torch.where((collar == 1) | (collar == 2), vee, crew)
    return torch.where(collar == 3, torch.ones_like(d), d)


def _collar_tone(s: Skeleton, ax: Tensor, y: Tensor, collar: Tensor, scale: float | Tensor) -> Tensor:
    """Darker collar flaps and a darker rim around the neckline."""
    top = s.neck_y
    flap = capsule(ax, y, (0.040, top + 0.010, 0.012, top + 0.074), 0.013, 0.006)
    return 1.0 - 0.30 * cover(flap, scale) * (collar == 2)


def _folds(x: Tensor, y: Tensor, cx: Tensor, top: Tensor, phase: Tensor) -> Tensor:
    """Soft vertical folds that grow towards the hem."""
    depth = ((y - top) * 1.6).clamp(0.0, 0.5)
    return 1.0 + 0.16 * depth * torch.sin((x - cx) * 62.0 + phase) - 0.05 * depth


def _tops(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    p = s.p
    ease = 0.008 + 0.008 * g.fit
    ax = (x - p.cx).abs()
    hem_y = s.hip_y - 0.020 + 0.055 * g.length * s.p.stature
    hem_y = torch.where(g.tucked > 0, s.waist_y + 0.03, hem_y)
    wide = torch.maximum(p.hip, p.waist * 1.08) + 0.010 * g.fit
    d = torch.maximum(ax - s.torso_width(y, wide) - ease, torch.maximum(s.neck_y + 0.006 - y, y - hem_y))
    d = torch.minimum(d, _sleeves(s, x, y, g.sleeves * 0.96, p.arm + ease))
    d = torch.maximum(d, -_neckline(s, ax, y, g.collar))
    polo = torch.maximum(ax - 0.036, (y - s.neck_y + 0.004).abs() - 0.020)
    d = torch.minimum(d, torch.where(g.collar == 3, polo, torch.ones_like(polo)))
    hood = torch.maximum(
        ellipse(ax, y, torch.zeros_like(p.cx), s.neck_y - 0.012, 0.082, 0.050),
        -ellipse(ax, y, torch.zeros_like(p.cx), s.neck_y - 0.002, 0.036, 0.040),
    )
    hood = torch.where(g.hood > 0, hood, torch.ones_like(hood))
    d = torch.minimum(d, hood)
    tone = _collar_tone(s, ax, y, g.collar, scale) * _folds(x, y, p.cx, s.shoulder_y, g.folds)
    tone = tone * (1.0 - 0.22 * cover(hood, scale))
    hem = ((hem_y - y).abs() - 0.012).clamp(-0.006, 0.006)
    tone = tone * (1.0 - 0.10 * cover(hem + (ax - p.hip * 1.6).clamp(min=0.0), scale) * (g.tucked == 0))
    return Cut(d, tone)


def _pants(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    p = s.p
    ax = (x - p.cx).abs()
    reach = 0.36 + 0.62 * g.length
    hem_y = s.hip_y + (s.ankle_y - s.hip_y) * reach - 0.004
    hem_r = p.ankle + 0.010 + 0.024 * g.fit
    top_y = s.waist_y - 0.002
    width = profile(y, (s.waist_y, p.waist + 0.008), (s.hip_y, p.hip + 0.008))
    hips = torch.maximum(ax - width, torch.maximum(top_y - y, y - s.crotch_y - 0.012))
    ends = (0.52 * p.hip, s.hip_y, p.stance + 0.3 * (hem_r - p.ankle), s.ankle_y)
    leg = torch.maximum(capsule(ax, y, ends, p.thigh + 0.011, hem_r), y - hem_y)
    leg = torch.maximum(leg, s.hip_y - 0.02 - y)
    d = torch.minimum(hips, leg)
    band = (y - top_y - 0.010).abs() - 0.010
    fly = torch.maximum(ax - 0.003, (y - s.hip_y + 0.01).abs() - 0.04)
    crease = (1.0 - (ax - 0.004).clamp(min=0.0) / 0.03).clamp(0.0, 1.0) * ramp(
        y, s.crotch_y - 0.03, s.crotch_y + 0.03
    )
    tone = (1.0 - 0.22 * cover(band, scale)) * (1.0 - 0.14 * cover(fly, scale)) * (1.0 - 0.2 * crease)
    tone = tone * (1.0 + 0.05 * torch.sin(y * 70.0 + g.folds))
    return Cut(d, tone)


def _skirts(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    p = s.p
    ax = (x - p.cx).abs()
    hem_y = s.crotch_y + (0.10 + 0.20 * g.length) * p.stature
    hem_w = p.hip + 0.010 + (0.02 + 0.075 * g.fit) * (0.7 + 0.3 * g.length)
    top_y = s.waist_y - 0.002
    width = profile(y, (s.waist_y - 0.01, p.waist + 0.008), (s.hip_y, p.hip + 0.012), (hem_y, hem_w))
    d = torch.maximum(ax - width, torch.maximum(top_y - y, y - hem_y + 0.9 * ax * ax))
    band = (y - top_y - 0.010).abs() - 0.010
    tone = (1.0 - 0.22 * cover(band, scale)) * _folds(x, y, p.cx, s.waist_y - 0.06, g.folds)
    return Cut(d, tone)


def _dresses(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    p = s.p
    ax = (x - p.cx).abs()
    hem_y = s.crotch_y + (0.11 + 0.21 * g.length) * p.stature
    hem_w = p.hip + 0.012 + (0.02 + 0.075 * g.fit) * (0.7 + 0.3 * g.length)
    width = s.torso_width(y) + 0.010 + (hem_w - p.hip - 0.010) * ramp(y, s.waist_y + 0.02, hem_y)
    d = torch.maximum(ax - width, torch.maximum(s.neck_y + 0.006 - y, y - hem_y + 0.9 * ax * ax))
    d = torch.minimum(d, _sleeves(s, x, y, g.sleeves * 0.96, p.arm + 0.009))
    d = torch.maximum(d, -_neckline(s, ax, y, g.collar))
    belt = (y - s.waist_y - 0.004).abs() - 0.010
    tone = (1.0 - 0.26 * cover(belt + (ax - width).clamp(min=0.0), scale)) * _folds(
        x, y, p.cx, s.waist_y, g.folds
    )
    return Cut(d, tone)


def _coats(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    p = s.p
    ax = (x - p.cx).abs()
    hem_y = s.hip_y + (0.045 + 0.17 * g.length) * p.stature
    hem_w = p.hip + 0.016 + 0.022 * g.length * (0.4 + g.fit)
    width = s.torso_width(y) + 0.018 + (hem_w - p.hip) * ramp(y, s.waist_y, hem_y)
    d = torch.maximum(ax - width, torch.maximum(s.neck_y - y, y - hem_y))
    d = torch.minimum(d, _sleeves(s, x, y, g.sleeves, p.arm + 0.015))
    vee = torch.maximum((ax + 0.46 * (y - s.neck_y)) * 0.91 - 0.052, y - s.neck_y - 0.13)
    gap = 0.024 + 0.090 * (y - s.neck_y) + 0.014 * ramp(y, s.waist_y, hem_y)
    d = torch.where(g.open > 0, torch.maximum(d, (gap - ax) * 0.97), torch.maximum(d, -vee))
    hood = torch.maximum(
        ellipse(ax, y, torch.zeros_like(p.cx), s.neck_y - 0.014, 0.092, 0.056),
        -ellipse(ax, y, torch.zeros_like(p.cx), s.neck_y - 0.002, 0.038, 0.042),
    )
    hood = torch.where(g.hood > 0, hood, torch.ones_like(hood))
    d = torch.minimum(d, hood)
    rim = torch.where(g.open > 0, gap, torch.zeros_like(gap))
    lapel = torch.maximum((ax - rim - 0.014).abs() - 0.014 + 0.14 * (y - s.neck_y), y - s.waist_y + 0.03)
    lapel = torch.where(g.hood > 0, torch.ones_like(lapel), lapel)
    seam = torch.maximum(ax - 0.004, s.neck_y + 0.10 - y)
    seam = torch.where(g.open > 0, torch.ones_like(seam), seam)
    tone = (
        (1.0 - 0.24 * cover(lapel, scale))
        * (1.0 - 0.30 * cover(seam, scale))
        * (1.0 - 0.22 * cover(hood, scale))
    )
    tone = tone * _folds(x, y, p.cx, s.waist_y, g.folds)
    pitch = 0.062
    row = torch.remainder(y - s.waist_y + 0.031, pitch) - 0.031
    column = torch.where(g.open > 0, gap + 0.014, torch.full_like(gap, 0.018))
    dot = ((x - p.cx - column) ** 2 + row * row).sqrt() - 0.0085
    dot = torch.maximum(
        dot, torch.maximum(s.waist_y - 0.07 - y, y - torch.minimum(hem_y - 0.03, s.hip_y + 0.04))
    )
    return Cut(d, tone, cover(dot, scale))


def sleeve_ease(worn: Worn) -> tuple[float, float]:
    """Reach (0 none to 2 wrist) and thickness over the bare arm of a garment's sleeves."""
    g = worn.spec
    if g.category == "coats":
        return g.sleeves, 0.015
    if g.category in ("tops", "dresses"):
        return 0.96 * g.sleeves, 0.008 + 0.008 * g.fit if g.category == "tops" else 0.009
    return 0.0, 0.0


def arm_distance(s: Skeleton, x: Tensor, y: Tensor, reach: Tensor, ease: Tensor) -> Tensor:
    """Distance to arms and hands with sleeves of ``reach`` and thickness ``ease``."""
    p = s.p
    bare = _sleeves(s, x, y, torch.full_like(reach, 2.0), p.arm * 0.86)
    d = torch.minimum(bare, hand_distance(s, x, y))
    return torch.minimum(d, _sleeves(s, x, y, reach, p.arm + ease))


_CUTS: dict[str, Callable[[Skeleton, SimpleNamespace, Tensor, Tensor, float | Tensor], Cut]] = {
    "tops": _tops,
    "pants": _pants,
    "skirts": _skirts,
    "dresses": _dresses,
    "coats": _coats,
    "shoes": shoes,
    "bags": bags,
    "hats": hats,
}


def cut(category: str, s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    """The geometry of N garments of one category on N bodies."""
    return _CUTS[category](s, g, x, y, scale)


def own_coordinates(category: str, s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Points (x, y) as a garment counts them, each (N, h, w): right and down of its anchor.

    The shoes of a pair stand as far apart as their wearer's feet: they count as if that were the rack's stance, and
    down from the ground.
    """
    if category == "shoes":
        aside = x - s.p.cx
        u = aside + aside.sign() * (RACK.stance - s.p.stance)
        return u + torch.zeros_like(y), y - s.p.foot + torch.zeros_like(x)
    ax, ay = anchor(category, s, g)
    return x - ax + torch.zeros_like(y), y - ay + torch.zeros_like(x)


def from_own_coordinates(
    category: str, s: Skeleton, g: SimpleNamespace, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """The points (x, y) on a body whose ``own_coordinates`` are (u, v)."""
    if category == "shoes":
        return s.p.cx + u - u.sign() * (RACK.stance - s.p.stance), s.p.foot + v
    ax, ay = anchor(category, s, g)
    return ax + u, ay + v


def anchor(category: str, s: Skeleton, g: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The point (x, y), each (N, 1, 1), where the pattern of a garment starts."""
    if category == "bags":
        return bag_anchor(s, g)
    if category == "hats":
        return s.p.cx, s.head_y - 0.52 * s.p.head
    return s.p.cx, s.neck_y
