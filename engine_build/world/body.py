"""Bodies: joints from a pose, the skin's silhouette, the head with its face and hair.

A body is described once as a ``Skeleton``; skin and garments are both drawn around it, so a garment fits
whoever wears it and a flat product shot is the same garment on the mannequin.
"""

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from engine_build.world.shapes import capsule, columns, cover, ellipse, profile, ramp, select
from engine_build.world.specs import Person

PERSON_FIELDS = tuple(Person.__dataclass_fields__)
MANNEQUIN = Person(
    stature=0.96,
    left_upper=0.42,
    left_fore=0.30,
    right_upper=0.42,
    right_fore=0.30,
    stance=0.065,
    shoulder=0.1,
)
"""Flat product shots are taken of garments on this body; shoes on ``RACK``, where the pair stands close."""
RACK = replace(MANNEQUIN, stance=0.038)


class Skeleton:
    """Joints and widths of N people, each a (N, 1, 1) tensor. ``side`` arrays hold (left, right)."""

    def __init__(self, p: SimpleNamespace) -> None:
        self.p = p
        h = p.stature
        self.head_y = p.foot - 0.835 * h
        self.neck_y = p.foot - 0.745 * h
        self.shoulder_y = p.foot - 0.705 * h
        self.waist_y = p.foot - 0.545 * h
        self.hip_y = p.foot - 0.470 * h
        self.crotch_y = p.foot - 0.430 * h
        self.knee_y = p.foot - 0.240 * h
        self.ankle_y = p.foot - 0.035 * h
        upper, fore = 0.130 * h, 0.125 * h
        self.arms = []
        for side, a, b in ((-1.0, p.left_upper, p.left_fore), (1.0, p.right_upper, p.right_fore)):
            sx = p.shoulder - 0.6 * p.arm
            sy = self.shoulder_y + 0.9 * p.arm
            ex, ey = sx + upper * a.sin(), sy + upper * a.cos()
            wx, wy = ex + fore * b.sin(), ey + fore * b.cos()
            self.arms.append((side, sx, sy, ex, ey, wx, wy))

    def pick(self, index: Tensor) -> "Skeleton":
        """The skeletons of rows ``index`` (M,)."""
        return Skeleton(select(self.p, index))

    def fold(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Distance from the body's axis, and the arm's joints for the side each column lies on."""
        right = x > self.p.cx
        left_arm, right_arm = self.arms
        joints = tuple(torch.where(right, r, le) for le, r in zip(left_arm[1:], right_arm[1:], strict=True))
        return (x - self.p.cx).abs(), joints

    def torso_width(self, y: Tensor, hem: Tensor | None = None) -> Tensor:
        """Half width of the trunk at heights ``y``; ``hem`` replaces the hip's half width."""
        p = self.p
        return profile(
            y,
            (self.neck_y, 0.30 * p.shoulder),
            (self.shoulder_y + 0.012, p.shoulder),
            (self.waist_y, p.waist),
            (self.hip_y, p.hip if hem is None else hem),
        )


def skeletons(people: list[Person]) -> Skeleton:
    """Pack people into one ``Skeleton``."""
    return Skeleton(columns([[getattr(p, f) for f in PERSON_FIELDS] for p in people], PERSON_FIELDS))


def skin_distance(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """Distance to neck, trunk, arms, hands and legs, (N, h, w)."""
    trunk, neck, arms, leg = skin_parts(s, x, y)
    return torch.minimum(torch.minimum(torch.minimum(trunk, neck), arms), leg)


def skin_parts(s: Skeleton, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances to trunk, neck, arms and legs, each (N, h, w)."""
    p = s.p
    ax, (sx, sy, ex, ey, wx, wy) = s.fold(x)
    trunk = torch.maximum(ax - s.torso_width(y), torch.maximum(s.neck_y - y, y - s.crotch_y))
    neck = torch.maximum(ax - 0.40 * p.head, (y - (s.shoulder_y - 0.5 * (s.shoulder_y - s.head_y))).abs() - 0.06)
    upper = capsule(ax, y, (sx, sy, ex, ey), p.arm, 0.85 * p.arm)
    fore = capsule(ax, y, (ex, ey, wx, wy), 0.85 * p.arm, 0.66 * p.arm)
    leg = capsule(ax, y, (0.52 * p.hip, s.hip_y, p.stance, s.ankle_y), p.thigh, p.ankle)
    return trunk, neck, torch.minimum(upper, fore), leg


def hand_distance(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the two hands, drawn over sleeves and skirts."""
    ax, (_, _, ex, ey, wx, wy) = s.fold(x)
    dx, dy = (wx - ex) * 0.16, (wy - ey) * 0.16
    return capsule(ax, y, (wx, wy, wx + dx, wy + dy), 0.80 * s.p.arm, 0.72 * s.p.arm)


def back_hair_distance(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the hair that falls behind head and shoulders, (N, h, w)."""
    p = s.p
    r, cx, cy = p.head, p.cx, s.head_y
    style = p.hair_style
    ax = (x - cx).abs()
    length = torch.where(style == 4, 2.35 * r, 1.35 * r)
    fall_width = profile(y, (cy - 0.3 * r, 1.12 * r), (cy + length, 1.30 * r))
    fall = torch.maximum(ax - fall_width, torch.maximum(cy - 0.2 * r - y, y - cy - length))
    none = torch.full_like(fall, 1.0)
    d = torch.where((style == 3) | (style == 4), fall, none)
    d = torch.minimum(d, torch.where(style == 5, ellipse(x, y, cx, cy - 1.45 * r, 0.42 * r, 0.40 * r), none))
    d = torch.minimum(d, torch.where(style == 6, ellipse(x, y, cx, cy - 0.25 * r, 1.42 * r, 1.38 * r), none))
    tail = capsule(x, y, (cx + 0.8 * r, cy - 0.7 * r, cx + 1.35 * r, cy + 1.3 * r), 0.34 * r, 0.18 * r)
    return torch.minimum(d, torch.where(style == 7, tail, none))


def eye_distance(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the whites of both eyes, (N, h, w)."""
    p = s.p
    ax, dy = (x - p.cx).abs(), y - s.head_y
    return ellipse(ax, dy, p.eye_gap, -0.06 * p.head, 1.35 * p.eye_size, 0.95 * p.eye_size)


def glasses_distance(s: Skeleton, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the frame of glasses, worn or not, (N, h, w)."""
    p = s.p
    ax, dy = (x - p.cx).abs(), y - s.head_y
    eye_y = -0.06 * p.head
    ring = ellipse(ax, dy, p.eye_gap + 0.001, eye_y, 0.021, 0.019).abs() - 0.0028
    return torch.minimum(ring, torch.maximum((dy - eye_y).abs() - 0.0028, ax - p.eye_gap + 0.019))


def head_layer(s: Skeleton, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The head: colour (N, 3, h, w), coverage (N, h, w) and where front hair covers the face (N, h, w)."""
    p = s.p
    r, cx, cy = p.head, p.cx, s.head_y
    ax, dx, dy = (x - cx).abs(), x - cx, y - cy
    tall = r * p.head_aspect
    skin = torch.cat([p.skin_r, p.skin_g, p.skin_b], 1)[:, :, None]
    hair = torch.cat([p.hair_r, p.hair_g, p.hair_b], 1)[:, :, None]
    jaw = r * (0.90 - 0.10 * ramp(dy, 0.0 * r, 1.0 * tall))
    face = ellipse(ax, dy, torch.zeros_like(cx), torch.zeros_like(cx), jaw, tall)
    ears = ellipse(ax, dy, 0.90 * r, 0.10 * r, 0.14 * r, 0.22 * r)
    head = torch.minimum(face, ears)
    coverage = cover(head, scale)
    shade = 1.0 - 0.16 * (1.0 + face / (0.35 * r)).clamp(0.0, 1.0) - 0.05 * (dx / r)
    colour = skin * shade.unsqueeze(1)

    def mark(distance: Tensor, ink: Tensor, strength: Tensor | float = 1.0) -> None:
        c = cover(distance, scale) * strength
        colour.add_((ink - colour).mul_(c.unsqueeze(1)))

    def ink(red: float, green: float, blue: float) -> Tensor:
        return torch.tensor([red, green, blue]).view(1, 3, 1, 1)

    zero = torch.zeros_like(cx)
    blush = (1.0 - ((ax - 0.55 * r) ** 2 + (dy - 0.38 * r) ** 2).sqrt() / (0.30 * r)).clamp(0.0, 1.0)
    colour.add_((ink(0.90, 0.38, 0.36) - colour).mul_((blush * p.cheeks * 0.7).unsqueeze(1)))
    beard = torch.maximum(face + 0.02 * r, 0.34 * r - dy + 0.25 * ax)
    mark(beard, hair * 0.9, p.beard)
    mark(ellipse(ax, dy, zero, 0.72 * r - 0.3 * p.smile, 0.30 * r, 0.05 * r), skin * 0.82, 0.3)
    mark(capsule(dx, dy, (zero, 0.02 * r, 0.02 * r, 0.30 * r), 0.3 * p.nose, 0.55 * p.nose), skin * 0.78, 0.85)
    curve = 0.56 * r - p.smile * (ax / p.mouth_width) ** 2 + 0.4 * p.smile
    mouth = torch.maximum((dy - curve).abs() - 0.5 * p.lips - 0.001, ax - p.mouth_width)
    lips = 0.35 * skin + 0.65 * ink(0.72, 0.22, 0.24)
    mark(mouth, lips)
    eye_y = -0.06 * r
    mark(eye_distance(s, x, y), ink(0.97, 0.96, 0.95))
    iris = torch.cat([p.eye_r, p.eye_g, p.eye_b], 1)[:, :, None]
    mark(ellipse(ax, dy, p.eye_gap, eye_y, 0.78 * p.eye_size, 0.85 * p.eye_size), iris)
    mark(ellipse(ax, dy, p.eye_gap, eye_y, 0.40 * p.eye_size, 0.42 * p.eye_size), ink(0.05, 0.04, 0.05))
    brow_y = -0.36 * r
    ends = (p.eye_gap - 0.013, brow_y + p.brow_tilt, p.eye_gap + 0.015, brow_y - p.brow_tilt)
    mark(capsule(ax, dy, ends, 0.55 * p.brow_thick, 0.40 * p.brow_thick), hair * 0.75)
    mark(glasses_distance(s, x, y), ink(0.12, 0.11, 0.13), p.glasses)

    style = p.hair_style
    cap_r = torch.where(style == 0, 1.0, torch.where(style == 6, 1.16, 1.08)) * r
    cap = ellipse(ax, dy, zero, -0.08 * r, cap_r, 1.06 * tall)
    sweep = torch.where((style == 2) | (style == 7) | (style == 4), (dx - p.parting * 0.6).abs() * 0.55, 0.16 * ax)
    sweep = torch.where(style == 3, 0.05 * ax, sweep)
    line = torch.where(style == 3, -0.40, torch.where(style == 0, -0.72, -0.62)) * r
    temple = torch.where((style == 3) | (style == 4), 0.95, torch.where(style == 0, 0.0, 0.25)) * r
    below = torch.minimum(dy - line - sweep, torch.maximum(0.80 * r - ax, dy - temple))
    front = torch.maximum(cap, below)
    hair_cover = cover(front, scale)
    gloss = 1.0 - 0.25 * (1.0 + cap / (0.4 * r)).clamp(0.0, 1.0)
    gloss = gloss + 0.22 * (1.0 - ((dy + 0.75 * r).abs() + 0.4 * (dx + 0.3 * r).abs()) / (0.45 * r)).clamp(0.0, 1.0)
    tone = hair * gloss.unsqueeze(1)
    colour = colour + (tone - colour) * hair_cover.unsqueeze(1)
    return colour, torch.maximum(coverage, hair_cover), hair_cover


def surface(distance: Tensor, y: Tensor, depth: float = 0.028) -> Tensor:
    """Soft light on a rounded body: darker towards its edge and the ground, (N, h, w)."""
    return (1.04 - 0.06 * y) - 0.24 * (1.0 + distance / depth).clamp_(0.0, 1.0).square_()
