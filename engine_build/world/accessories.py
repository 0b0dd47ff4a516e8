"""The cut of shoes, bags and hats, as distances around a ``Skeleton``."""

from types import SimpleNamespace

import torch
from torch import Tensor

from engine_build.world.body import Skeleton
from engine_build.world.shapes import Cut, box, capsule, cover, ellipse


def shoes(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    """A pair of shoes, boots or flats on both feet."""
    p = s.p
    ax = (x - p.cx).abs()
    sole = p.foot + 0.006
    toe_x = p.stance + 0.020
    foot = capsule(ax, y, (p.stance, s.ankle_y - 0.004, toe_x, sole - 0.024), 0.027, 0.031)
    foot = torch.maximum(foot, y - sole)
    shaft = torch.maximum((ax - p.stance).abs() - p.ankle - 0.012, (y - s.ankle_y + 0.03).abs() - 0.05)
    foot = torch.minimum(foot, torch.where(g.style == 1, shaft, torch.ones_like(shaft)))
    opening = ellipse(ax, y, p.stance, s.ankle_y - 0.030, 0.020, 0.019)
    d = torch.where(g.style == 2, torch.maximum(foot, -opening), foot)
    heel = sole - y - 0.013
    trim = cover(heel, scale) * (g.style < 2)
    laces = capsule(ax, y, (p.stance - 0.004, s.ankle_y - 0.004, toe_x - 0.010, sole - 0.034), 0.007, 0.006)
    trim = torch.maximum(trim, cover(laces, scale) * (g.style == 0))
    return Cut(d, torch.ones_like(d), trim)


def bag_anchor(s: Skeleton, g: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Centre of the bag's body: hung from the shoulder beside the hip, half behind or over the arm."""
    side_x = torch.maximum(s.p.hip, s.p.shoulder) + 0.062 + 0.016 * (1.0 - g.front)
    return s.p.cx + g.side * side_x, s.hip_y + 0.020


def bags(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    """A bag on its strap."""
    p = s.p
    bx, by = bag_anchor(s, g)
    dx, dy = (x - bx).abs(), y - by
    soft = 0.018
    half = torch.where(g.style == 2, 0.058, 0.066)
    tall = torch.where(g.style == 2, 0.076, 0.054)
    slant = half + 0.12 * dy - soft
    square = torch.maximum(dx - slant, dy.abs() - tall + soft)
    corner_x, corner_y = (dx - slant).clamp(min=0.0), (dy.abs() - tall + soft).clamp(min=0.0)
    square = square.clamp(max=0.0) + (corner_x * corner_x + corner_y * corner_y).sqrt() - soft
    disc = (dx * dx + dy * dy).sqrt() - 0.064
    d = torch.where(g.style == 1, disc, square)
    hook_x, hook_y = p.cx + g.side * (p.shoulder - 0.012), s.shoulder_y + 0.006
    edge = torch.where(g.style == 1, 0.045, 0.80 * half)
    strap = capsule(x, y, (hook_x, hook_y, bx - edge, by - 0.6 * tall), 0.0085, 0.0085)
    strap = torch.minimum(strap, capsule(x, y, (hook_x, hook_y, bx + edge, by - 0.6 * tall), 0.0085, 0.0085))
    whole = torch.minimum(d, strap)
    flap = torch.where(g.style == 0, dy + 0.006 - 0.9 * dx * dx, torch.ones_like(dy))
    flap_edge = flap.abs() - 0.004
    tone = (1.0 - 0.22 * cover(flap_edge, scale)) * (1.0 - 0.25 * cover(strap, scale) * (d > 0))
    clasp = box(dx, dy, torch.zeros_like(bx), torch.full_like(by, 0.004), 0.010, 0.010)
    trim = cover(torch.where(g.style == 0, clasp, torch.ones_like(clasp)), scale)
    return Cut(whole, tone, trim)


def hats(s: Skeleton, g: SimpleNamespace, x: Tensor, y: Tensor, scale: float | Tensor) -> Cut:
    """A hat over the hair."""
    p = s.p
    r = p.head
    zero = torch.zeros_like(r)
    ax, dx, dy = (x - p.cx).abs(), x - p.cx, y - s.head_y
    brow = -0.52 * r
    dome = torch.maximum(ellipse(ax, dy, zero, brow, 1.17 * r, 0.92 * r), dy - brow)
    cuff = torch.maximum(ax - 1.18 * r, (dy - brow + 0.02 * r).abs() - 0.17 * r)
    pom = ellipse(ax, dy, zero, brow - 0.98 * r, 0.24 * r, 0.24 * r)
    visor = ellipse(dx, dy, 0.30 * r, brow + 0.05 * r, 1.15 * r, 0.20 * r)
    crown = torch.maximum(ellipse(ax, dy, zero, brow, 1.02 * r, 0.85 * r), dy - brow)
    brim = ellipse(ax, dy, zero, brow, 1.85 * r, 0.26 * r)
    beanie = torch.minimum(torch.minimum(dome, cuff), pom)
    cap = torch.minimum(dome, visor)
    sun = torch.minimum(crown, brim)
    d = torch.where(g.style == 0, beanie, torch.where(g.style == 1, cap, sun))
    dark = torch.where(g.style == 0, cuff, torch.where(g.style == 1, visor, torch.maximum(brim, -crown)))
    tone = 1.0 - torch.where(g.style == 0, 0.14, 0.10) * cover(dark, scale)
    band = torch.maximum((dy - brow + 0.18 * r).abs() - 0.13 * r, crown)
    trim = cover(
        torch.where(g.style == 0, pom, torch.where(g.style == 2, band, torch.ones_like(band))), scale
    )
    return Cut(d, tone, trim)
