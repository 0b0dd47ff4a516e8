"""Sampling of try-on scenes: who stands where, what they wear, what they are asked to try on.

``sample_scene(seed, garments)`` is a pure function of its arguments. Seeds from ``HELD_OUT_SEED`` upwards are
never trained on. What an instruction leaves open (coat open or closed, shirt tucked or not, the bag before or
behind the arm and on which side, the folds) is drawn at random, so the target is truly ambiguous there.
"""

from dataclasses import replace
from random import Random

from .world_specs import (
    CATEGORIES,
    COLOURS,
    LOGOS,
    PALETTE,
    Backdrop,
    GarmentSpec,
    Layering,
    Person,
    Scene,
    Shot,
    Worn,
)

HELD_OUT_SEED = 1_000_000_000
"""Scenes with this seed or a larger one are for evaluation only."""

MAX_GARMENTS = 6

_SKINS = (
    (0.98, 0.84, 0.74),
    (0.94, 0.76, 0.63),
    (0.87, 0.67, 0.52),
    (0.74, 0.53, 0.38),
    (0.58, 0.39, 0.27),
    (0.42, 0.28, 0.20),
)
_HAIRS = (
    (0.12, 0.10, 0.10),
    (0.26, 0.17, 0.11),
    (0.45, 0.29, 0.16),
    (0.86, 0.69, 0.38),
    (0.70, 0.32, 0.14),
    (0.70, 0.70, 0.72),
    (0.36, 0.12, 0.14),
)
_EYES = ((0.18, 0.12, 0.09), (0.12, 0.28, 0.50), (0.15, 0.36, 0.22), (0.30, 0.20, 0.10))
_WALLS = (
    (0.90, 0.86, 0.78),
    (0.80, 0.87, 0.90),
    (0.86, 0.89, 0.80),
    (0.93, 0.83, 0.80),
    (0.83, 0.81, 0.90),
    (0.70, 0.76, 0.80),
    (0.95, 0.91, 0.84),
    (0.72, 0.66, 0.62),
)
_FLOORS = ((0.66, 0.49, 0.35), (0.78, 0.64, 0.48), (0.55, 0.52, 0.52), (0.74, 0.72, 0.69), (0.48, 0.36, 0.28))
_ACCENTS = (
    (0.42, 0.60, 0.55),
    (0.80, 0.48, 0.36),
    (0.36, 0.46, 0.62),
    (0.86, 0.70, 0.42),
    (0.62, 0.45, 0.58),
)
_SKIES = ((0.62, 0.80, 0.94), (0.97, 0.82, 0.70), (0.78, 0.84, 0.90), (0.55, 0.72, 0.90))
_FACADES = (
    (0.80, 0.62, 0.50),
    (0.72, 0.72, 0.74),
    (0.86, 0.78, 0.66),
    (0.62, 0.50, 0.48),
    (0.66, 0.73, 0.78),
    (0.90, 0.86, 0.80),
)
_PAVEMENTS = ((0.70, 0.69, 0.68), (0.62, 0.61, 0.63), (0.78, 0.74, 0.68))
_STYLES = {
    "tops": ("top",),
    "pants": ("pants",),
    "skirts": ("skirt",),
    "dresses": ("dress",),
    "coats": ("coat",),
    "shoes": ("sneakers", "boots", "flats"),
    "bags": ("handbag", "round bag", "tote bag"),
    "hats": ("beanie", "cap", "sun hat"),
}
_PATTERN_CHOICES = {
    "shoes": ("plain", "plain", "stripes"),
    "hats": ("plain", "plain", "stripes", "dots", "logo"),
    "bags": ("plain", "plain", "stripes", "vertical_stripes", "checks", "dots", "logo"),
}
_ALL_PATTERNS = ("plain", "plain", "stripes", "vertical_stripes", "checks", "dots", "print", "logo")
_LAYER_FIELDS = (
    ("coats", "coat_open"),
    ("tops", "tucked"),
    ("bags", "bag_in_front"),
    ("bags", "bag_side"),
)
_WEIGHTS = {
    "tops": 1.2,
    "pants": 1.7,
    "skirts": 1.7,
    "dresses": 2.6,
    "coats": 0.7,
    "shoes": 0.7,
    "bags": 0.7,
    "hats": 0.7,
}
_RIVALS = {
    "tops": ("dresses",),
    "pants": ("skirts", "dresses"),
    "skirts": ("pants", "dresses"),
    "dresses": ("tops", "pants", "skirts"),
}
_LAYER_WORDS = {
    "coats": {True: "open", False: "closed"},
    "tops": {True: "tucked in", False: "untucked"},
    "bags": {True: "in front", False: "behind"},
}
_CONTRASTS = {
    a: tuple(
        b for b in COLOURS if sum((p - q) ** 2 for p, q in zip(PALETTE[a], PALETTE[b], strict=True)) > 0.22
    )
    for a in COLOURS
}


def sample_garment(rng: Random, category: str) -> GarmentSpec:
    """A random garment of one of ``CATEGORIES``; raises ``KeyError`` for another word."""
    style = rng.choice(_STYLES[category])
    colour = rng.choice(COLOURS)
    collar, hood, sleeves = "crew", False, 0.0
    if category in ("tops", "dresses"):
        sleeves = rng.choice((0.0, 0.6, 0.8, 2.0, 2.0))
        collar = rng.choice(("crew", "crew", "v", "shirt", "turtle") if category == "tops" else ("crew", "v"))
        hood = category == "tops" and sleeves == 2.0 and rng.random() < 0.3
    elif category == "coats":
        sleeves, hood, collar = 2.0, rng.random() < 0.35, rng.choice(("crew", "shirt"))
    return GarmentSpec(
        category=category,
        style=style,
        colour=colour,
        colour2=rng.choice(_CONTRASTS[colour]),
        pattern=rng.choice(_PATTERN_CHOICES.get(category, _ALL_PATTERNS)),
        period=rng.uniform(0.055, 0.085),
        phase=(rng.random(), rng.random()),
        tint=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)),
        sleeves=sleeves,
        length=rng.choice((0.0, 0.5, 1.0)),
        fit=rng.random(),
        collar=collar,
        hood=hood,
        logo=rng.choice(LOGOS),
    )


def sample_categories(rng: Random, count: int) -> list[str]:
    """``count`` compatible categories in request order: no dress with top, pants or skirt; pants or skirt.

    Raises ``ValueError`` outside 1..6.
    """
    if not 1 <= count <= MAX_GARMENTS:
        raise ValueError(f"a request holds 1 to {MAX_GARMENTS} garments, not {count}")
    pool = dict(_WEIGHTS)
    if count == MAX_GARMENTS:
        del pool["dresses"]
    chosen: list[str] = []
    while len(chosen) < count:
        pick = rng.choices(tuple(pool), tuple(pool.values()))[0]
        chosen.append(pick)
        for rival in (pick, *_RIVALS.get(pick, ())):
            pool.pop(rival, None)
    rng.shuffle(chosen)
    return chosen


def sample_scene(seed: int, garments: int | None = None) -> Scene:
    """The scene of ``seed``, with ``garments`` requested items (drawn from 1..6 if None)."""
    rng = Random(seed * 8 + (garments or 0))
    count = garments if garments is not None else rng.randint(1, MAX_GARMENTS)
    categories = sample_categories(rng, count)
    person = _person(rng)
    backdrop = _backdrop(rng)
    worn = _photo_outfit(rng, categories, person)
    specs = [sample_garment(rng, c) for c in categories]
    worn_colours = {w.spec.category: w.spec.colour for w in worn}
    specs = [_recolour(rng, s) if worn_colours.get(s.category) == s.colour else s for s in specs]
    return _dress(rng, seed, person, backdrop, worn, specs)


def _recolour(rng: Random, spec: GarmentSpec) -> GarmentSpec:
    colour = rng.choice(_CONTRASTS[spec.colour])
    return replace(spec, colour=colour, colour2=rng.choice(_CONTRASTS[colour]))


def _dress(
    rng: Random,
    seed: int,
    person: Person,
    backdrop: Backdrop,
    worn: tuple[Worn, ...],
    specs: list[GarmentSpec],
) -> Scene:
    old = {w.spec.category: w for w in worn}
    requested = {s.category for s in specs}
    target = {c: w for c, w in old.items() if not _displaced(c, requested)}
    facts: dict[str, bool | float | None] = {}
    fresh = []
    for spec in specs:
        state: dict[str, bool | float] = {"folds": rng.uniform(0, 6.28)}
        field = dict(_LAYER_FIELDS[:3]).get(spec.category)
        if field is not None:
            likely = 0.5
            if field == "coat_open":
                likely = 0.85 if requested & {"tops", "dresses"} else 0.6
            value = rng.random() < likely
            if field == "coat_open" and not value:
                spec = _shortened(spec, requested)
            state[field] = value
            if rng.random() < 0.5:
                facts[f"{field}_specified"] = value
                spec = replace(spec, layer_words=_LAYER_WORDS[spec.category][value])
        if spec.category == "bags":
            state["bag_side"] = old["bags"].bag_side if "bags" in old else _bag_side(rng, person)
        fresh.append(spec)
        target[spec.category] = Worn(spec, **state)  # type: ignore[arg-type]
    for category, field in _LAYER_FIELDS:
        if category in target:
            facts[field] = getattr(target[category], field)
    shots = tuple(_shot(rng) for _ in fresh)
    return Scene(
        seed=seed,
        person=person,
        backdrop=backdrop,
        worn=worn,
        garments=tuple(fresh),
        shots=shots,
        target=tuple(target[c] for c in CATEGORIES if c in target),
        layering=Layering(**facts),  # type: ignore[arg-type]
    )


def _displaced(category: str, requested: set[str]) -> bool:
    if category in requested:
        return True
    if category in ("tops", "pants", "skirts") and "dresses" in requested:
        return True
    if category in ("pants", "skirts"):
        return bool(requested & {"pants", "skirts"})
    return category == "dresses" and bool(requested & {"tops", "pants", "skirts"})


def _photo_outfit(rng: Random, requested: list[str], person: Person) -> tuple[Worn, ...]:
    """What the photo shows. A lone top or bottom is asked only of people in separates, who keep the rest."""
    bottoms = {"pants", "skirts"} & set(requested)
    separates = ("tops" in requested) != bool(bottoms)
    names = ["dresses"]
    if separates or rng.random() < 0.72:
        names = ["tops", rng.choice(("pants", "skirts"))]
    names.append("shoes")
    names += [c for c, p in (("coats", 0.2), ("bags", 0.15), ("hats", 0.15)) if rng.random() < p]
    covered = {"tops", "dresses"} & set(requested)
    outfit = []
    for name in names:
        worn = Worn(sample_garment(rng, name), folds=rng.uniform(0, 6.28), tucked=rng.random() < 0.5)
        if name == "coats":
            worn = replace(worn, coat_open=bool(covered) or rng.random() < 0.6)
            if not worn.coat_open:
                worn = replace(worn, spec=_shortened(worn.spec, bottoms))
        elif name == "bags":
            worn = replace(worn, bag_in_front=rng.random() < 0.5, bag_side=_bag_side(rng, person))
        outfit.append(worn)
    return tuple(outfit)


def _shortened(coat: GarmentSpec, requested: set[str]) -> GarmentSpec:
    """A coat that, closed, still shows the requested skirt or dress below its hem."""
    return replace(coat, length=0.0) if requested & {"pants", "skirts", "dresses"} else coat


def _bag_side(rng: Random, person: Person) -> float:
    """-1 or 1: a side whose arm hangs, so that "in front of the arm" means something."""
    sides = [s for s, upper, fore in _arms(person) if abs(upper) < 0.6 and abs(fore) < 0.6]
    return rng.choice(sides)


def _arms(p: Person) -> tuple[tuple[float, float, float], ...]:
    return ((-1.0, p.left_upper, p.left_fore), (1.0, p.right_upper, p.right_fore))


def _person(rng: Random) -> Person:
    u = rng.uniform
    shoulder = u(0.084, 0.110)
    waist = shoulder * u(0.74, 0.94)
    skin = rng.choice(_SKINS)
    hair = rng.choice(_HAIRS)
    eye = rng.choice(_EYES)
    arms = [_arm(rng, rng.choice((0, 0, 0, 1, 2))), _arm(rng, 0)]
    rng.shuffle(arms)
    style = rng.randrange(8)
    jitter = [u(-0.03, 0.03) for _ in range(3)]
    return Person(
        cx=u(0.345, 0.405),
        foot=u(0.945, 0.962),
        stature=u(0.93, 0.99),
        head=u(0.070, 0.079),
        head_aspect=u(1.04, 1.20),
        shoulder=shoulder,
        waist=waist,
        hip=waist * u(1.04, 1.22),
        arm=u(0.022, 0.028),
        thigh=u(0.040, 0.048),
        ankle=u(0.019, 0.024),
        stance=u(0.045, 0.075),
        left_upper=arms[0][0],
        left_fore=arms[0][1],
        right_upper=arms[1][0],
        right_fore=arms[1][1],
        skin_r=min(1.0, skin[0] + jitter[0]),
        skin_g=skin[1] + jitter[1],
        skin_b=skin[2] + jitter[1],
        hair_r=max(0.05, hair[0] + jitter[2]),
        hair_g=max(0.05, hair[1] + jitter[2]),
        hair_b=max(0.05, hair[2] + jitter[2]),
        hair_style=float(style),
        parting=u(-0.03, 0.03),
        eye_r=eye[0],
        eye_g=eye[1],
        eye_b=eye[2],
        eye_gap=u(0.025, 0.033),
        eye_size=u(0.010, 0.0135),
        brow_tilt=u(-0.006, 0.006),
        brow_thick=u(0.004, 0.0075),
        nose=u(0.008, 0.016),
        mouth_width=u(0.016, 0.028),
        smile=u(-0.002, 0.012),
        lips=u(0.004, 0.0075),
        cheeks=u(0.0, 0.5),
        glasses=float(rng.random() < 0.25),
        beard=u(0.5, 0.95) if style in (0, 1, 2, 6) and rng.random() < 0.35 else 0.0,
    )


def _arm(rng: Random, pose: int) -> tuple[float, float]:
    """Angles of upper arm and forearm: hanging, hand on hip, or raised."""
    if pose == 0:
        return rng.uniform(0.20, 0.42), rng.uniform(0.08, 0.34)
    if pose == 1:
        return rng.uniform(0.75, 0.9), rng.uniform(-0.85, -0.7)
    return rng.uniform(1.1, 1.5), rng.uniform(2.5, 2.9)


def _backdrop(rng: Random) -> Backdrop:
    street = rng.random() < 0.45
    if street:
        colours = (
            rng.choice(_SKIES),
            rng.choice(_PAVEMENTS),
            *rng.sample(_FACADES, 3),
            rng.choice(_ACCENTS),
        )
    else:
        colours = (rng.choice(_WALLS), rng.choice(_FLOORS), *rng.sample(_ACCENTS, 3), rng.choice(_SKIES))
    return Backdrop(float(street), colours, tuple(rng.random() for _ in range(10)))


def _shot(rng: Random) -> Shot:
    base, warm = rng.uniform(0.90, 0.98), rng.uniform(-0.02, 0.02)
    return Shot(
        turn=rng.uniform(-0.18, 0.18),
        zoom=rng.uniform(0.88, 1.04),
        shift=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        ground=(base + warm, base, base - warm),
    )
