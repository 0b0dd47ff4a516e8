"""Where a figure's chin is, how long the body below it, where its axis runs: by these a domain's frames are measured.

From the chin, because hats and hair move the crown, and heads differ in size more than bodies in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine_build.support.regions import LABEL, Labels, Mask
from engine_build.support.shapes import opened

FACES_TALL = 7.5
"""Visible faces between chin and sole: for figures that the photo cuts off."""
SPECK = 1.5 / 256
"""In shares of the height: what is narrower than twice as much is a parser's noise, unless there is nothing else."""
EYES_AT = 0.38
"""Share of a visible face above the eyes, where no parser says where they are."""
_FACE = ("face", "eyes", "eyewear")
_AXIS = (*_FACE, "neck", "torso", "tops", "dresses")


@dataclass(frozen=True)
class Figure:
    """In rows and columns of the map: `chin` and `axis`, `body` from chin to sole.

    `eyes` is the row of the eyes, None without a face, `face_axis` the face's middle column, `face_width` its width.
    """

    chin: float
    axis: float
    body: float
    eyes: float | None = None
    face_axis: float = 0.0
    face_width: float = 0.0


def figure(labels: Labels) -> Figure:
    """The figure of a map (h, w); of one without a figure, the whole picture."""
    height, width = labels.shape
    seen = _solid(labels != LABEL["background"])
    if not seen.any():
        return Figure(0.0, width / 2, float(height))
    of_axis = _solid(_seen(labels, _AXIS))
    axis = float(np.median(np.nonzero(of_axis if of_axis.any() else seen)[1]))
    rows = np.nonzero((seen & (labels != LABEL["bags"])).any(1))[0]
    sole = float(rows[-1] + 1) if len(rows) else float(height)
    face = _solid(_seen(labels, _FACE))
    if not face.any():
        top = float(rows[0]) if len(rows) else 0.0
        return Figure(top, axis, sole - top)
    across, down = np.nonzero(face.any(0))[0], np.nonzero(face.any(1))[0]
    top, chin = float(down[0]), float(down[-1] + 1)
    left, right = float(across[0]), float(across[-1] + 1)
    body = max(sole - chin, 1.0)
    whole = _seen(labels, ("shoes", "feet")).any()
    if not whole and rows[-1] == height - 1:
        body = max(body, FACES_TALL * (chin - top))
    eyes = np.nonzero((_seen(labels, ("eyes", "eyewear")) & face).any(1))[0]
    row = float(eyes[0] + eyes[-1] + 1) / 2 if len(eyes) else top + EYES_AT * (chin - top)
    return Figure(chin, axis, body, row, (left + right) / 2, right - left)


def _solid(mask: Mask) -> Mask:
    whole = opened(mask, SPECK * mask.shape[0])
    return whole if whole.any() else mask


def _seen(labels: Labels, names: tuple[str, ...]) -> Mask:
    return np.isin(labels, [LABEL[name] for name in names])
