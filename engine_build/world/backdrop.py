"""Rooms and streets behind the person, from outer products of row and column coverages."""

import torch
from torch import Tensor

from engine_build.world.shapes import capsule, cover, ellipse, paint
from engine_build.world.specs import Backdrop


def backdrops(scenes: list[Backdrop], height: int, width: int, x: Tensor, y: Tensor) -> Tensor:
    """Pictures (N, 3, height, width) in [0, 1]; ``x`` (1, 1, width) and ``y`` (1, height, 1)."""
    canvas = torch.empty(len(scenes), 3, height, width)
    for street, draw in ((0.0, _room), (1.0, _street)):
        rows = [i for i, b in enumerate(scenes) if b.street == street]
        if rows:
            chosen = [scenes[i] for i in rows]
            colours = torch.tensor([b.colours for b in chosen])
            places = torch.tensor([b.places for b in chosen])
            canvas[torch.tensor(rows)] = draw(colours, places, x, y, float(height))
    return canvas


def _bar(v: Tensor, centre: Tensor | float, half: Tensor | float, scale: float) -> Tensor:
    """Coverage of an interval along one axis."""
    return cover((v - centre).abs() - half, scale)


def _room(colours: Tensor, places: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
    wall, floor, a, b, c, sky = (colours[:, i, :, None, None] for i in range(6))
    q = [places[:, i, None, None] for i in range(places.shape[1])]
    line = 0.80 + 0.05 * q[0]
    light = (1.06 - 0.16 * y - 0.10 * (x - 0.75 * q[1]).abs()).unsqueeze(1)
    canvas = wall * light
    paint(
        canvas,
        cover(line - y, scale).expand(-1, -1, x.shape[2]),
        floor * (1.12 - 0.25 * (1.0 - y)).unsqueeze(1),
    )
    paint(canvas, _bar(y, line - 0.012, 0.012, scale).expand(-1, -1, x.shape[2]), 0.5 + 0.5 * wall)
    rug = ellipse(x, y, 0.375 + 0.06 * (q[2] - 0.5), 0.945, 0.26 + 0.06 * q[3], 0.045)
    paint(canvas, cover(rug, scale) * (q[4] > 0.4), b * 0.9 + 0.1)
    side = torch.where(q[5] > 0.5, 0.14, 0.61)
    wx, wy = side + 0.02 * (q[2] - 0.5), 0.27 + 0.05 * q[3]
    hw, hh = 0.095 + 0.02 * q[4], 0.13 + 0.03 * q[0]
    paint(
        canvas, _bar(x, wx, hw + 0.012, scale) * _bar(y, wy, hh + 0.012, scale), torch.full_like(wall, 0.97)
    )
    view = sky + (1.0 - sky) * (0.7 * (y - wy + hh) / (2.0 * hh)).clamp(0.0, 1.0).unsqueeze(1)
    paint(canvas, _bar(x, wx, hw, scale) * _bar(y, wy, hh, scale), view)
    hill = torch.maximum(ellipse(x, y, wx + 0.04, wy + hh, hw, 0.6 * hh), (x - wx).abs() - hw)
    hill = torch.maximum(hill, y - wy - hh)
    paint(canvas, cover(hill, scale), 0.55 * sky + 0.45 * torch.tensor([0.45, 0.68, 0.42]).view(1, 3, 1, 1))
    cross = torch.maximum(_bar(x, wx, 0.006, scale), _bar(y, wy, 0.006, scale))
    inside = _bar(x, wx, hw, scale) * _bar(y, wy, hh, scale)
    paint(canvas, cross * inside, torch.full_like(wall, 0.97))
    px, py = 0.75 - side + 0.02 * (q[6] - 0.5), 0.22 + 0.06 * q[7]
    paint(canvas, _bar(x, px, 0.075, scale) * _bar(y, py, 0.062, scale), a * 0.6)
    paint(canvas, _bar(x, px, 0.062, scale) * _bar(y, py, 0.049, scale), 0.35 * c + 0.65)
    art = ellipse(x, y, px + 0.02 * (q[8] - 0.5), py + 0.012, 0.034, 0.026)
    paint(canvas, cover(art, scale), b)
    plant = q[9] > 0.35
    pot = torch.maximum((x - px).abs() - 0.036 - 0.25 * (line - y), (y - line - 0.005).abs() - 0.045)
    leaf_y = line - 0.14
    for lean, tall in ((-0.055, 0.03), (0.055, 0.02), (0.0, 0.0)):
        leaf = capsule(x, y, (px, line - 0.03, px + lean, leaf_y + tall), torch.full_like(px, 0.010), 0.024)
        green = torch.tensor([0.25, 0.50 + 0.8 * tall, 0.30]).view(1, 3, 1, 1)
        paint(canvas, cover(leaf, scale) * plant, green)
    paint(canvas, cover(pot, scale) * plant, a)
    return canvas.clamp_(0.0, 1.0)


def _street(colours: Tensor, places: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
    sky, ground, f1, f2, f3, accent = (colours[:, i, :, None, None] for i in range(6))
    q = [places[:, i, None, None] for i in range(places.shape[1])]
    line = 0.79 + 0.04 * q[0]
    canvas = (
        sky + (1.0 - sky) * (0.75 * y / line).clamp(0.0, 1.0).unsqueeze(1) + torch.zeros_like(x).unsqueeze(1)
    )
    cloud_x, cloud_y = 0.75 * q[1], 0.06 + 0.08 * q[2]
    cloud = torch.minimum(
        ellipse(x, y, cloud_x, cloud_y, 0.10, 0.028),
        ellipse(x, y, cloud_x + 0.03, cloud_y - 0.02, 0.05, 0.03),
    )
    paint(canvas, cover(cloud, scale) * 0.85, torch.ones_like(sky))
    left, right = 0.17 + 0.08 * q[3], 0.52 + 0.08 * q[4]
    blocks = (
        ((left + right) / 2, (right - left) / 2 + 0.01, 0.30 + 0.22 * q[5], f2, 0.5),
        (left / 2, left / 2, 0.08 + 0.22 * q[6], f1, 0.0),
        ((0.75 + right) / 2, (0.75 - right) / 2, 0.08 + 0.22 * q[7], f3, 0.25),
    )
    for bx, half, top, colour, shift in blocks:
        body = _bar(x, bx, half, scale) * cover(torch.maximum(top - y, y - line), scale)
        paint(canvas, body, colour * (1.04 - 0.12 * y).unsqueeze(1))
        across = cover((torch.remainder((x - bx) / 0.078 + shift, 1.0) - 0.5).abs() * 0.078 - 0.020, scale)
        down = cover((torch.remainder((y - top) / 0.115 - 0.05, 1.0) - 0.5).abs() * 0.115 - 0.032, scale)
        panes = body * across * down * cover(torch.maximum(top + 0.02 - y, y - line + 0.10), scale)
        paint(canvas, panes, 0.55 * colour * torch.tensor([0.8, 0.95, 1.15]).view(1, 3, 1, 1))
    shop = torch.where(q[8] > 0.5, left * 0.5, (0.75 + right) * 0.5)
    awning = _bar(x, shop, 0.085, scale) * _bar(y, line - 0.115, 0.022, scale)
    paint(canvas, _bar(x, shop, 0.070, scale) * _bar(y, line - 0.048, 0.048, scale), 0.45 * accent)
    paint(canvas, awning, accent)
    tree_x = torch.where(q[8] > 0.5, 0.66, 0.09) + 0.03 * (q[9] - 0.5)
    trunk = _bar(x, tree_x, 0.013, scale) * _bar(y, line - 0.07, 0.09, scale)
    paint(canvas, trunk, torch.tensor([0.42, 0.31, 0.24]).view(1, 3, 1, 1).expand_as(sky))
    crown = ellipse(x, y, tree_x, line - 0.24, 0.085, 0.115)
    light = 1.05 - 0.28 * (1.0 + crown / 0.08).clamp(0.0, 1.0)
    paint(canvas, cover(crown, scale), torch.tensor([0.40, 0.62, 0.36]).view(1, 3, 1, 1) * light.unsqueeze(1))
    paint(
        canvas,
        cover(line - y, scale).expand(-1, -1, x.shape[2]),
        ground * (1.10 - 0.20 * (1.0 - y)).unsqueeze(1),
    )
    kerb = _bar(y, line + 0.008, 0.009, scale).expand(-1, -1, x.shape[2])
    paint(canvas, kerb, ground * 0.78)
    return canvas.clamp_(0.0, 1.0)
