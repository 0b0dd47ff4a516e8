"""Pictures of scenes: photo, product shots, target and exact region maps, a batch at a time.

Photo and target share one backdrop, body and head; only what is worn differs, so pixels that no worn or
requested garment touches are equal in both. Every row of a batch depends on its own scene alone.

Each operation is small: render in processes of one thread (``torch.set_num_threads(1)``), not in one of many.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_build.support.regions import LABEL
from engine_build.world.backdrop import backdrops
from engine_build.world.body import (
    Skeleton,
    back_hair_distance,
    hand_distance,
    head_layer,
    skeletons,
    skin_distance,
    surface,
)
from engine_build.world.cloth import cloth
from engine_build.world.correspondence import Trace
from engine_build.world.garments import anchor, arm_distance, cut, fields, own_coordinates, sleeve_ease
from engine_build.world.parts import PART_OF, of_head, of_skin
from engine_build.world.shapes import columns, cover, ellipse, paint
from engine_build.world.shots import TRAINING_SHOT, product_shots
from engine_build.world.specs import BACKGROUND, FACE, HAIR, REGION_OF, SKIN, Scene, Worn

ASPECT = 0.75
TRAINING_HEIGHT = 96


@dataclass(slots=True)
class Rendered:
    """A batch of B samples.

    ``person`` and ``target`` (B, 3, H, W) and ``garments`` (B, K, 3, S, S) are float32 RGB in [0, 1]; rows of
    ``garments`` past ``counts`` (B,) are zero. Region maps are (B, H, W) uint8 labels of ``specs``.
    ``sources`` and ``places`` tell where each pixel of ``target`` comes from, ``person_parts`` and ``target_parts``
    (B, H, W) are finer region maps, of the labels of ``engine_build.support.regions``; both where they were asked for.
    """

    person: Tensor
    garments: Tensor
    counts: Tensor
    target: Tensor
    person_regions: Tensor
    target_regions: Tensor
    person_parts: Tensor | None = None
    target_parts: Tensor | None = None
    sources: Tensor | None = None
    places: Tensor | None = None


def render(
    scenes: list[Scene],
    height: int = TRAINING_HEIGHT,
    shot_size: int = TRAINING_SHOT,
    device: torch.device | str = "cpu",
    *,
    traced: bool = False,
    parts: bool = False,
) -> Rendered:
    """Draw photo, product shots, target and region maps; pictures are ``height`` x 3/4 ``height`` pixels.

    With ``traced`` also ``sources`` (B, H, W) int8, which reference each pixel of the target shows (0 the photo, k the
    k-th garment's shot, ``NOWHERE`` for what no reference shows: skin, cloth or background that comes to light), and
    ``places`` (B, H, W, 2) float32, where on it, in shares of its width and height. With ``parts`` also the finer
    region maps. Everything is computed, and stays, on ``device``. Raises ``ValueError`` for no scenes or an odd height.
    """
    if torch.device(device).type == "cpu":
        return _render(scenes, height, shot_size, traced, parts)
    with torch.device(device):
        return _render(scenes, height, shot_size, traced, parts)


def _render(scenes: list[Scene], height: int, shot_size: int, traced: bool, parts: bool) -> Rendered:
    if not scenes:
        raise ValueError("render needs at least one scene")
    if height % 4:
        raise ValueError(f"height {height} is not a multiple of 4, so a 3:4 picture has no whole width")
    stage = _people(scenes, height, traced, parts)
    counts = torch.tensor([len(s.garments) for s in scenes])
    garments = torch.zeros(len(scenes), int(counts.max()), 3, shot_size, shot_size)
    flat = [(i, j) for i, s in enumerate(scenes) for j in range(len(s.garments))]
    shots = product_shots([scenes[i].garments[j] for i, j in flat], [scenes[i].shots[j] for i, j in flat], shot_size)
    rows, slots = zip(*flat, strict=True)
    garments[torch.tensor(rows), torch.tensor(slots)] = shots
    n = len(scenes)
    drawn = Rendered(stage.canvas[:n], garments, counts, stage.canvas[n:], stage.labels[:n], stage.labels[n:])
    if stage.parts is not None:
        drawn.person_parts, drawn.target_parts = stage.parts[:n], stage.parts[n:]
    if stage.trace is not None:
        drawn.sources, drawn.places = stage.trace.completed(drawn.person, drawn.target)
    return drawn


def head_region(regions: Tensor) -> Tensor:
    """Face and visible hair of a region map, as a bool mask of its shape."""
    return (regions == FACE) | (regions == HAIR)


def garment_region(regions: Tensor, category: str) -> Tensor:
    """Pixels that show the garment of ``category``, as a bool mask of the map's shape."""
    return regions == REGION_OF[category]


def unchanged_background(person_regions: Tensor, target_regions: Tensor) -> Tensor:
    """Pixels that are background in both maps, as a bool mask."""
    return (person_regions == BACKGROUND) & (target_regions == BACKGROUND)


class _Stage:
    """The two canvases of a batch (photos first, then targets) with their labels, painted back to front."""

    def __init__(self, base: Tensor, height: int, x: Tensor, y: Tensor, trace: Trace | None, parts: bool) -> None:
        self.canvas = torch.cat([base, base])
        self.labels = torch.zeros(self.canvas.shape[0], *base.shape[2:], dtype=torch.uint8)
        self.parts = torch.zeros_like(self.labels) if parts else None
        self.scale = float(height)
        self.x, self.y = x, y
        self.trace = trace

    def window(self, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> tuple[slice, slice]:
        """Rows and columns that hold every pixel from ``top`` to ``bottom`` and ``left`` to ``right``."""
        h, w = self.labels.shape[1:]
        r0 = max(0, int(float(top.min()) * self.scale) - 1)
        r1 = min(h, int(float(bottom.max()) * self.scale) + 2)
        c0 = max(0, int(float(left.min()) * self.scale) - 1)
        c1 = min(w, int(float(right.max()) * self.scale) + 2)
        return slice(r0, max(r1, r0 + 1)), slice(c0, max(c1, c0 + 1))

    def lay(self, index: Tensor, rows: slice, cols: slice, coverage: Tensor, colour: Tensor, label: int) -> None:
        """Paint one layer on pictures ``index`` (M,) and label the pixels it mostly covers."""
        part = self.canvas[index, :, rows, cols]
        paint(part, coverage, colour)
        self.canvas[index, :, rows, cols] = part
        names = self.labels[index, rows, cols]
        self.labels[index, rows, cols] = names.masked_fill_(coverage > 0.5, label)
        if self.parts is not None:
            parts = self.parts[index, rows, cols]
            self.parts[index, rows, cols] = parts.masked_fill_(coverage > 0.5, PART_OF[label])
        if self.trace is not None:
            self.trace.cover(index, rows, cols, coverage)

    def both(self, rows: slice, cols: slice, coverage: Tensor, colour: Tensor, label: int) -> None:
        """Paint one layer, given for B scenes, on photo and target alike."""
        half = coverage.shape[0]
        for start in (0, half):
            paint(self.canvas[start : start + half, :, rows, cols], coverage, colour)
            self.labels[start : start + half, rows, cols].masked_fill_(coverage > 0.5, label)
        if self.trace is not None:
            self.trace.cover(torch.arange(half, 2 * half), rows, cols, coverage)

    def name(self, rows: slice, cols: slice, coverage: Tensor, part: Callable[[], Tensor] | int) -> None:
        """Finer labels of the layer just painted on both, made only where they are wanted."""
        if self.parts is None:
            return
        covered = coverage > 0.5
        finer = torch.as_tensor(part if isinstance(part, int) else part(), dtype=torch.uint8)
        for start in (0, coverage.shape[0]):
            below = self.parts[start : start + coverage.shape[0], rows, cols]
            below.copy_(torch.where(covered, finer, below))


def _people(scenes: list[Scene], height: int, traced: bool, parts: bool) -> _Stage:
    width = int(height * ASPECT)
    y = ((torch.arange(height) + 0.5) / height).view(1, height, 1)
    x = ((torch.arange(width) + 0.5) / height).view(1, 1, width)
    base = backdrops([s.backdrop for s in scenes], height, width, x, y)
    body = skeletons([s.person for s in scenes])
    p = body.p
    shadow = ellipse(x, y, p.cx + 0.012, p.foot + 0.006, 0.17, 0.020)
    base.mul_((1.0 - 0.32 * (0.5 - shadow / 0.016).clamp(0.0, 1.0)).unsqueeze(1))
    count = len(scenes)
    trace = Trace(scenes, height, width) if traced else None
    stage = _Stage(base, height, x, y, trace, parts)
    outfits = [s.worn for s in scenes] + [s.target for s in scenes]
    layers: dict[str, tuple[list[int], list[Worn], list[tuple[float, float]]]] = {}
    for i, outfit in enumerate(outfits):
        for worn in outfit:
            pictures, items, sleeves = layers.setdefault(_layer(worn), ([], [], []))
            pictures.append(i)
            items.append(worn)
            sleeves.append(max(map(sleeve_ease, outfit)))

    def dress(name: str) -> None:
        if name in layers:
            _lay_worn(stage, body, count, *layers[name])

    skin = torch.cat([p.skin_r, p.skin_g, p.skin_b], 1)[:, :, None]
    hair = torch.cat([p.hair_r, p.hair_g, p.hair_b], 1)[:, :, None]
    rows, cols = stage.window(
        body.head_y - 2.2 * p.head, body.head_y + 2.5 * p.head, p.cx - 1.8 * p.head, p.cx + 1.8 * p.head
    )
    d = back_hair_distance(body, x[..., cols], y[:, rows])
    stage.both(rows, cols, cover(d, height), hair * (0.86 * surface(d, y[:, rows], 0.05)).unsqueeze(1), HAIR)
    stage.name(rows, cols, cover(d, height), LABEL["hair"])
    rows, cols = _body_window(stage, body)
    d = skin_distance(body, x[..., cols], y[:, rows])
    here = x[..., cols], y[:, rows]
    stage.both(rows, cols, cover(d, height), skin * surface(d, y[:, rows]).unsqueeze(1), SKIN)
    stage.name(rows, cols, cover(d, height), lambda: of_skin(body, *here))
    for name in ("shoes", "tops tucked", "pants", "skirts", "tops", "dresses"):
        dress(name)
    rows, cols = _body_window(stage, body)
    d = hand_distance(body, x[..., cols], y[:, rows])
    dress("coats")
    stage.both(rows, cols, cover(d, height), skin * surface(d, y[:, rows], 0.02).unsqueeze(1), SKIN)
    stage.name(rows, cols, cover(d, height), LABEL["hands"])
    rows, cols = stage.window(
        body.head_y - 1.5 * p.head, body.head_y + 1.5 * p.head, p.cx - 1.4 * p.head, p.cx + 1.4 * p.head
    )
    colour, coverage, front = head_layer(body, x[..., cols], y[:, rows], float(height))
    stage.both(rows, cols, coverage, colour, FACE)
    at_head = x[..., cols], y[:, rows]
    stage.name(rows, cols, coverage, lambda: of_head(body, *at_head, float(height)))
    stage.name(rows, cols, front, LABEL["hair"])
    for start in (0, count):
        stage.labels[start : start + count, rows, cols].masked_fill_(front > 0.5, HAIR)
    dress("hats")
    dress("bags")
    stage.canvas.clamp_(0.0, 1.0)
    return stage


def _layer(worn: Worn) -> str:
    category = worn.spec.category
    return "tops tucked" if category == "tops" and worn.tucked else category


def _body_window(stage: _Stage, body: Skeleton) -> tuple[slice, slice]:
    p = body.p
    reach = torch.stack([torch.maximum(a[3], a[5]) for a in body.arms]).amax(0) + 0.05
    lift = torch.stack([torch.minimum(a[4], a[6]) for a in body.arms]).amin(0) - 0.06
    return stage.window(torch.minimum(lift, body.neck_y - 0.06), p.foot + 0.02, p.cx - reach, p.cx + reach)


def _worn_window(stage: _Stage, body: Skeleton, category: str) -> tuple[slice, slice]:
    p = body.p
    if category == "shoes":
        return stage.window(body.ankle_y - 0.10, p.foot + 0.02, p.cx - 0.16, p.cx + 0.16)
    if category == "hats":
        return stage.window(body.head_y - 2.2 * p.head, body.head_y, p.cx - 2.0 * p.head, p.cx + 2.0 * p.head)
    if category in ("pants", "skirts"):
        return stage.window(body.waist_y - 0.02, p.foot, p.cx - 0.24, p.cx + 0.24)
    if category == "bags":
        return stage.window(body.shoulder_y - 0.03, body.hip_y + 0.13, p.cx - 0.26, p.cx + 0.26)
    rows, cols = _body_window(stage, body)
    low = body.hip_y + 0.08 if category == "tops" else body.knee_y + 0.12
    return slice(rows.start, stage.window(low, low, p.cx, p.cx)[0].stop), cols


def _lay_worn(
    stage: _Stage,
    body: Skeleton,
    count: int,
    pictures: list[int],
    items: list[Worn],
    sleeves: list[tuple[float, float]],
) -> None:
    """Paint one garment per picture; ``sleeves`` are those of the arm that a bag may hang behind."""
    category = items[0].spec.category
    index = torch.tensor(pictures)
    s = body.pick(index % count)
    rows, cols = _worn_window(stage, s, category)
    x, y = stage.x[..., cols], stage.y[:, rows]
    g = fields(items)
    shape = cut(category, s, g, x, y, stage.scale)
    ax, ay = anchor(category, s, g)
    light = surface(shape.distance, y)
    coverage = cover(shape.distance, stage.scale)
    if category == "bags":
        sleeve = columns(sleeves, ("reach", "ease"))
        arm = cover(arm_distance(s, x, y, sleeve.reach, sleeve.ease), stage.scale)
        coverage = coverage * (1.0 - arm * (g.front == 0))
    colour = cloth([w.spec for w in items], shape, x - ax, y - ay, light, stage.scale)
    stage.lay(index, rows, cols, coverage, colour, REGION_OF[category])
    if stage.trace is not None:
        stage.trace.garments(index, rows, cols, coverage, items, *own_coordinates(category, s, g, x, y))
