"""What each expert dresses: the regions it takes whole, the frames a new silhouette may need, what it never touches.

Hands, bare legs and hair are kept unless a domain says otherwise. Frames are measured on the body, not on the old
garment, so that the support of someone in short sleeves or a narrow dress is that of the same one in long sleeves or
a flared dress: the old silhouette tells the expert nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from engine_build.support.errors import SupportError


@dataclass(frozen=True)
class Frame:
    """A trapezoid about the figure's axis: rows `top` and `bottom`, half widths above and below.

    Of unit `body`: rows from the chin, lengths in shares of the way from chin to sole. Of unit `face`: rows from the
    eyes, lengths in shares of the face's width. Without its middle, up to `inner` from the axis; then of the side alone
    on which something is taken, if any.
    """

    top: float
    half_top: float
    bottom: float
    half_bottom: float
    unit: Literal["body", "face"] = "body"
    inner: float = 0.0


@dataclass(frozen=True)
class Domain:
    """An expert's field.

    `categories` are the kinds of reference it understands. `takes` are regions of the support as a whole, `parts`
    regions taken between two rows (as in a Frame of unit `body`), `otherwise` regions taken where none of the others
    is seen. `keeps` never belong to it. `margin` and `closing` are shares of the photo's height, `ease` how much wider
    the margin is around bare skin, from which a garment would stand off.
    """

    name: str
    categories: tuple[str, ...]
    takes: tuple[str, ...]
    keeps: tuple[str, ...]
    margin: float
    closing: float = 0.0
    ease: float = 0.0
    parts: tuple[tuple[str, float, float], ...] = ()
    otherwise: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()


_HEAD = ("face", "eyes", "eyewear", "hair", "hats")
_BELOW = ("legs", "feet", "shoes")
_CARRIED = ("hands", "bags", "accessory")
_UPPER_BODY = ("neck", "torso", "arms")
BARE = ("neck", "torso", "arms", "legs")
_TRUNK = Frame(-0.09, 0.135, 0.46, 0.17)
_LAP = Frame(0.24, 0.14, 0.85, 0.31)
_LEGS = Frame(0.24, 0.14, 0.97, 0.17)

_ALL = (
    Domain("eye", ("eyewear",), ("eyes", "eyewear"), ("hair", "hats", "hands", "background"), 0.008, 0.0,
           frames=(Frame(-0.25, 0.56, 0.25, 0.56, "face"),)),
    Domain("face", ("face",), ("face", "eyes", "eyewear"), ("hair", "hats", "hands", "tops", "dresses", "coats"),
           0.006),
    Domain("hat", ("hats",), ("hats",), ("eyes", "eyewear", "hands", "neck", "torso", "tops", "dresses", "coats"), 0.02,
           0.02, frames=(Frame(-1.08, 1.1, -0.1, 1.1, "face"),)),
    Domain("top", ("tops",), ("tops", *_UPPER_BODY), (*_HEAD, *_BELOW, *_CARRIED, "coats"), 0.03, 0.03, 0.015,
           parts=(("dresses", -1.0, 0.46),), otherwise=("coats",), frames=(_TRUNK,)),
    Domain("bottom", ("pants", "skirts"), ("pants", "skirts", "legs"),
           (*_HEAD, *_CARRIED, *_UPPER_BODY, "feet", "tops", "coats"), 0.025, 0.03, 0.01,
           parts=(("dresses", 0.28, 9.0),), frames=(_LAP, _LEGS)),
    Domain("dress", ("dresses",), ("dresses", "tops", "pants", "skirts", "legs", *_UPPER_BODY),
           (*_HEAD, *_CARRIED, "feet", "shoes", "coats"), 0.03, 0.03, 0.015,
           otherwise=("coats",), frames=(_TRUNK, _LAP, _LEGS)),
    Domain("coat", ("coats",), ("coats", "tops", *_UPPER_BODY), (*_HEAD, *_CARRIED, "feet", "shoes"), 0.035, 0.03, 0.02,
           parts=(("dresses", -1.0, 0.70),), frames=(Frame(-0.1, 0.15, 0.70, 0.23),)),
    Domain("shoes", ("shoes",), ("shoes", "feet"), (*_HEAD, *_CARRIED, *_UPPER_BODY, "tops", "coats"), 0.015, 0.0,
           frames=(Frame(0.83, 0.19, 1.02, 0.2),)),
    Domain("bag", ("bags",), ("bags",), (*_HEAD, "feet", "shoes", "accessory"), 0.02, 0.03,
           frames=(Frame(0.0, 0.37, 0.56, 0.37, inner=0.08),)),
    Domain("bg", ("background",), ("background",),
           (*_HEAD, *_BELOW, *_CARRIED, *_UPPER_BODY, "tops", "pants", "skirts", "dresses", "coats"), 0.0),
)  # fmt: skip
DOMAINS: Mapping[str, Domain] = MappingProxyType({one.name: one for one in _ALL})
OF_CATEGORY: Mapping[str, str] = MappingProxyType({kind: one.name for one in _ALL for kind in one.categories})
"""The domain that dresses each category."""


def domain_of(name: str) -> Domain:
    """The domain of a name. Raises SupportError for an unknown one."""
    if name not in DOMAINS:
        raise SupportError("unknown-domain", f"there is no domain {name!r}; choose from {', '.join(DOMAINS)}")
    return DOMAINS[name]
