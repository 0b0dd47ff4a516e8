"""A person drawn as a region map by hand, without the world: simple shapes, every region where it belongs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine_build.support.regions import LABEL, RegionMap
from engine_build.support.shapes import grow, shrink


def standing(
    height: int = 384,
    width: int = 288,
    *,
    sleeves: str = "tops",
    lower: str = "pants",
    coat: bool = False,
    hem: float = 0.50,
) -> RegionMap:
    """Someone facing us in a top, `sleeves` what their arms show, `lower` what their legs show."""
    labels = np.zeros((height, width), np.uint8)
    y = (np.arange(height)[:, None] + 0.5) / height
    x = np.abs((np.arange(width)[None, :] + 0.5) / height - width / height / 2)

    def lay(name: str, where: npt.NDArray[np.bool_]) -> None:
        labels[np.broadcast_to(where, labels.shape)] = LABEL[name]

    def ellipse(cy: float, rx: float, ry: float) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = (x / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        return inside

    lay("hair", ellipse(0.11, 0.075, 0.085))
    lay("legs", (y > 0.5) & (y < 0.93) & (x < 0.08) & (x > 0.01))
    lay("shoes", (y >= 0.91) & (y < 0.96) & (x < 0.10) & (x > 0.01))
    if lower == "pants":
        lay("pants", (y > 0.46) & (y < 0.91) & (x < 0.085) & ((x > 0.01) | (y < 0.55)))
    elif lower == "skirts":
        lay("skirts", (y > 0.46) & (y < 0.68) & (x < 0.09 + 0.3 * (y - 0.46)))
    lay("arms", (y > 0.23) & (y < 0.50) & (x > 0.09) & (x < 0.135))
    lay("hands", (y >= 0.50) & (y < 0.555) & (x > 0.09) & (x < 0.13))
    lay("neck", (y > 0.15) & (y < 0.23) & (x < 0.03))
    lay("tops", (y > 0.21) & (y < hem) & (x < 0.09) & ~((y < 0.23) & (x < 0.03)))
    if sleeves != "arms":
        lay(sleeves, (y > 0.22) & (y < 0.49) & (x >= 0.09) & (x < 0.14))
    if coat:
        lay("coats", (y > 0.21) & (y < 0.60) & (x > 0.03) & (x < 0.15) & ~((y > 0.5) & (x > 0.09) & (x < 0.13)))
    lay("face", ellipse(0.12, 0.055, 0.07))
    lay("eyes", (np.abs(y - 0.11) < 0.008) & (x > 0.015) & (x < 0.035))
    return RegionMap(labels)


def overlap(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def alike(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], pixels: float) -> bool:
    """Whether two masks differ only within `pixels` of the first one's edge."""
    edge = grow(a, pixels) & ~shrink(a, pixels)
    return not ((a ^ b) & ~edge).any()
