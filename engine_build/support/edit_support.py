"""The edit support E: where alone an expert may change a photo. One function, in training and wherever an expert runs.

    regions -> grid of GRID rows -> taken regions, closed, grown, and the domain's frames -> less what is kept -> size

All lengths are shares of the height or measured on the figure, and all shapes are made on the grid: a rehearsal of
192 rows and a photo of 24 megapixels get the same support. An expert keeps the `digest` of what it was trained with.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from PIL import Image

from engine_build.support import extremities, figure
from engine_build.support.domains import BARE, Domain, Frame
from engine_build.support.errors import SupportError
from engine_build.support.figure import Figure
from engine_build.support.regions import FIGURE, NAMES, Mask, RegionMap
from engine_build.support.shapes import band, boxed, closed, grow, opened

VERSION = 1
"""Raised with every change of what the function returns, in whatever module; a test holds its results."""
GRID = 256
"""Rows of the grid on which all supports are made."""
LEAST_SHARE = 0.0002
"""Less of a picture than this is not seen."""
MAX_MARGIN = 0.25

Shape = Literal["tight", "box"]


@dataclass(frozen=True)
class Options:
    """`tight` follows what may change; `box`, its rectangle, gives any new silhouette room.

    `margin` (shares of the height) instead of the domain's own. Raises SupportError for one outside 0..MAX_MARGIN.
    """

    shape: Shape = "tight"
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not 0.0 <= self.margin <= MAX_MARGIN:
            raise SupportError("bad-margin", f"a margin is 0 to {MAX_MARGIN} of the height, not {self.margin}")


PLAIN = Options()


def edit_support(regions: RegionMap, domain: Domain, options: Options = PLAIN, *, size: tuple[int, int]) -> Mask:
    """E (h, w) of a photo of `size` (width, height) whose regions a parser gave.

    No pixel of a kept region belongs to it. Raises SupportError where the photo shows nothing that the domain takes.
    """
    width, height = size
    grid = regions.at(GRID, max(1, round(GRID * width / height)))
    support = _on_grid(grid, domain, options)
    if support.mean() < LEAST_SHARE:
        raise SupportError("nothing-to-edit", f"the photo shows nothing that the {domain.name} expert could change")
    return _at(support, width, height) & ~regions.at(height, width).mask(domain.keeps)


def digest(domain: Domain, options: Options = PLAIN) -> str:
    """What decides E, as a SHA-256: version, constants, the names of the regions, the domain and the options."""
    constants = {
        "grid": GRID,
        "least": LEAST_SHARE,
        "speck": figure.SPECK,
        "faces": figure.FACES_TALL,
        "eyes": figure.EYES_AT,
        "hand": extremities.HAND,
        "foot": extremities.FOOT,
    }
    said = {
        "version": VERSION,
        "regions": NAMES,
        "constants": constants,
        "domain": asdict(domain),
        "options": asdict(options),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_digest(kept: str, domain: Domain, options: Options = PLAIN) -> None:
    """Raises SupportError unless `kept` is the digest of this function, domain and options."""
    if kept != digest(domain, options):
        raise SupportError(
            "support-differs",
            f"this {domain.name} expert was trained with another edit support ({kept[:12]}) than this release makes "
            f"({digest(domain, options)[:12]}): use the release it was trained with, or train it again",
        )


def _on_grid(grid: RegionMap, domain: Domain, options: Options) -> Mask:
    """E on the grid. A hat, a bag or glasses can be put on where none is seen: their frames stand alone."""
    if "background" not in domain.takes and not grid.mask(FIGURE).any():
        return np.zeros(grid.labels.shape, bool)
    body = figure.figure(grid.labels)
    taken = _taken(grid, domain, body)
    alone = any(frame.inner or frame.unit == "face" for frame in domain.frames)
    if not taken.any() and not alone:
        return taken
    if "background" not in domain.takes:
        solid = opened(taken, figure.SPECK * GRID)
        taken = solid if alone or solid.any() else taken
    frames = [_framed(frame, body, taken) for frame in domain.frames]
    if domain.closing:
        taken = closed(taken, domain.closing * GRID)
    margin = domain.margin if options.margin is None else options.margin
    support = grow(taken, margin * GRID)
    if domain.ease:
        support = support | grow(taken & grid.mask(BARE), (margin + domain.ease) * GRID)
    for one in frames:
        support = support | one
    if options.shape == "box":
        support = boxed(support)
    return support & ~grid.mask(domain.keeps)


def _taken(grid: RegionMap, domain: Domain, body: Figure) -> Mask:
    taken = grid.mask(domain.takes)
    rows = np.arange(taken.shape[0])[:, None] + 0.5
    for name, top, bottom in domain.parts:
        between = (rows >= body.chin + top * body.body) & (rows < body.chin + bottom * body.body)
        taken = taken | (grid.mask((name,)) & between)
    garments = [name for name in domain.takes if name not in BARE]
    garments += [name for name, _, _ in domain.parts]
    if domain.otherwise and grid.mask(garments).mean() < LEAST_SHARE:
        taken = taken | grid.mask(domain.otherwise)
    return taken


def _framed(frame: Frame, body: Figure, taken: Mask) -> Mask:
    if frame.unit == "face":
        if body.eyes is None:
            return np.zeros_like(taken)
        row, axis, unit = body.eyes, body.face_axis, body.face_width
    else:
        row, axis, unit = body.chin, body.axis, body.body
    rows = (row + frame.top * unit, row + frame.bottom * unit)
    inside = band(taken.shape, rows, axis, (frame.half_top * unit, frame.half_bottom * unit))
    if not frame.inner:
        return inside
    aside = np.arange(taken.shape[1]) + 0.5 - axis
    inside &= np.abs(aside) >= frame.inner * unit
    left, right = int(taken[:, aside < 0].sum()), int(taken[:, aside >= 0].sum())
    if max(left, right) >= LEAST_SHARE * taken.size:
        inside &= (aside < 0) == (left > right)
    return inside


def _at(support: Mask, width: int, height: int) -> Mask:
    if support.shape == (height, width):
        return support
    plane = Image.fromarray(support.astype(np.uint8) * 255)
    return np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) > 127


def drawn_support(mask: Image.Image, regions: RegionMap | None, domain: Domain) -> Mask:
    """E as a caller drew it, a mask read by `caller_mask.read_mask`; where `regions` are known too, held against them.

    Raises SupportError for a mask that leaves out what the domain takes and holds the rest.
    """
    drawn = np.asarray(mask) > 127
    if regions is not None:
        own = edit_support(regions, domain, size=mask.size)
        held = float((drawn & own).sum()) / max(1, int(own.sum()))
        others = float((drawn & ~own).sum()) / max(1, int((~own).sum()))
        if held < 0.2 and others > 0.8:
            raise SupportError(
                "mask-inverted",
                f"the mask holds {others:.0%} of the photo and {held:.0%} of what the {domain.name} expert changes: "
                "invert it",
            )
    return drawn
