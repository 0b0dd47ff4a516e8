"""The nouns of the procedural world: garments, people, backdrops, outfits, scenes.

Plain frozen dataclasses of numbers and words, no torch. Lengths are in units of the picture's height, x runs
over [0, 0.75] and y downwards over [0, 1]; angles are radians from hanging straight down, outwards positive.
"""

from dataclasses import dataclass

CATEGORIES = ("tops", "pants", "skirts", "dresses", "coats", "shoes", "bags", "hats")
PATTERNS = ("plain", "stripes", "vertical_stripes", "checks", "dots", "print", "logo")
LOGOS = ("disc", "ring", "diamond", "cross")
PALETTE: dict[str, tuple[float, float, float]] = {
    "white": (0.95, 0.94, 0.91),
    "grey": (0.58, 0.59, 0.61),
    "black": (0.14, 0.14, 0.17),
    "red": (0.82, 0.17, 0.19),
    "orange": (0.95, 0.52, 0.16),
    "yellow": (0.97, 0.82, 0.27),
    "green": (0.27, 0.60, 0.30),
    "teal": (0.12, 0.60, 0.62),
    "blue": (0.20, 0.36, 0.78),
    "purple": (0.50, 0.27, 0.66),
    "pink": (0.96, 0.60, 0.71),
    "brown": (0.50, 0.32, 0.19),
}
COLOURS = tuple(PALETTE)

BACKGROUND, SKIN, FACE, HAIR = 0, 1, 2, 3
REGION_OF = {name: 4 + i for i, name in enumerate(CATEGORIES)}
SMALLEST = 12
"""Regions of fewer pixels are not judged: too little of the garment shows."""

_PATTERN_WORDS = {
    "plain": "",
    "stripes": "striped ",
    "vertical_stripes": "pinstriped ",
    "checks": "checked ",
    "dots": "dotted ",
    "print": "printed ",
    "logo": "",
}
_SLEEVE_WORDS = {"none": "sleeveless ", "short": "short-sleeved ", "long": "long-sleeved "}
_COLLAR_WORDS = {"v": " with a v-neck", "shirt": " with a collar", "turtle": " with a turtleneck"}


@dataclass(frozen=True, slots=True)
class GarmentSpec:
    """What one garment looks like, and how the instruction says to layer it.

    ``sleeves`` runs from 0 (none) over 1 (elbow) to 2 (wrist); ``length`` and ``fit`` are in [0, 1] within
    what the category allows; ``period`` is the pattern's repeat in units of a picture's height.
    """

    category: str
    style: str
    colour: str
    colour2: str
    pattern: str
    period: float
    phase: tuple[float, float]
    tint: tuple[float, float, float]
    sleeves: float = 0.0
    length: float = 0.5
    fit: float = 0.5
    collar: str = "crew"
    hood: bool = False
    logo: str = "disc"
    layer_words: str | None = None

    @property
    def sleeve_name(self) -> str:
        """``none``, ``short`` or ``long``."""
        return "none" if self.sleeves < 0.2 else "short" if self.sleeves < 1.3 else "long"

    @property
    def description(self) -> str:
        """A stable phrase such as ``a striped red and white long-sleeved top with a hood``."""
        two = "" if self.pattern in ("plain", "logo") else f" and {self.colour2}"
        words = f"{_PATTERN_WORDS[self.pattern]}{self.colour}{two} "
        if self.category in ("tops", "dresses"):
            words += _SLEEVE_WORDS[self.sleeve_name]
        words += self.style
        if self.hood:
            words += " with a hood"
        elif self.category in ("tops", "dresses", "coats"):
            words += _COLLAR_WORDS.get(self.collar, "")
        if self.pattern == "logo":
            words += f" with a {self.colour2} logo"
        plural = self.category in ("pants", "shoes")
        return words if plural else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True, slots=True)
class Person:
    """One person and pose. Every field is a number, so a batch packs into one tensor."""

    cx: float = 0.375
    foot: float = 0.955
    stature: float = 0.96
    head: float = 0.074
    head_aspect: float = 1.14
    shoulder: float = 0.100
    waist: float = 0.080
    hip: float = 0.092
    arm: float = 0.025
    thigh: float = 0.044
    ankle: float = 0.022
    stance: float = 0.060
    left_upper: float = 0.30
    left_fore: float = 0.22
    right_upper: float = 0.30
    right_fore: float = 0.22
    skin_r: float = 0.9
    skin_g: float = 0.7
    skin_b: float = 0.6
    hair_r: float = 0.2
    hair_g: float = 0.15
    hair_b: float = 0.1
    hair_style: float = 1.0
    parting: float = 0.0
    eye_r: float = 0.2
    eye_g: float = 0.15
    eye_b: float = 0.1
    eye_gap: float = 0.029
    eye_size: float = 0.012
    brow_tilt: float = 0.0
    brow_thick: float = 0.006
    nose: float = 0.012
    mouth_width: float = 0.022
    smile: float = 0.008
    lips: float = 0.006
    cheeks: float = 0.2
    glasses: float = 0.0
    beard: float = 0.0


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A room (``street`` 0) or a street (1): colours and ten placement numbers in [0, 1]."""

    street: float
    colours: tuple[tuple[float, float, float], ...]
    places: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Worn:
    """One garment as it sits on the person. Fields that a category does not use keep their defaults."""

    spec: GarmentSpec
    folds: float = 0.0
    tucked: bool = False
    coat_open: bool = True
    bag_side: float = 1.0
    bag_in_front: bool = True


@dataclass(frozen=True, slots=True)
class Layering:
    """The layering of the target. ``*_specified`` is what the instruction says, None where it says nothing
    (or the category is not requested); the plain field is what the target shows, None if not worn."""

    coat_open: bool | None = None
    coat_open_specified: bool | None = None
    tucked: bool | None = None
    tucked_specified: bool | None = None
    bag_in_front: bool | None = None
    bag_in_front_specified: bool | None = None
    bag_side: float | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """How a product shot is taken: turn (radians), zoom, shift (shares of the picture), ground colour."""

    turn: float
    zoom: float
    shift: tuple[float, float]
    ground: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """One try-on request with its truth: ``worn`` is the photo's outfit, ``target`` the result's."""

    seed: int
    person: Person
    backdrop: Backdrop
    worn: tuple[Worn, ...]
    garments: tuple[GarmentSpec, ...]
    shots: tuple[Shot, ...]
    target: tuple[Worn, ...]
    layering: Layering
