"""Sampling of try-on scenes: who stands where, what they wear, what they are asked to try on.

``sample_scene(seed, garments)`` is a pure function of its arguments. Seeds from ``HELD_OUT_SEED`` upwards are
never trained on. What an instruction leaves open (coat open or closed, shirt tucked or not, the bag before or
behind the arm and on which side, the folds) is drawn at random, so the target is truly ambiguous there.
"""

from dataclasses import replace
from random import Random

from engine_build.instruction import MAX_GARMENTS
from engine_build.world.casting import hanging_sides, sample_backdrop, sample_person
from engine_build.world.specs import (
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
    person = sample_person(rng)
    backdrop = sample_backdrop(rng)
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
                likely = 0.9 if requested & {"tops", "dresses"} else 0.6
            value = rng.random() < likely
            if field == "coat_open" and not value:
                spec = _shortened(spec, requested)
            state[field] = value
            if rng.random() < 0.5:
                facts[f"{field}_specified"] = value
                spec = replace(spec, layer_words=_LAYER_WORDS[spec.category][value])
        if spec.category == "bags":
            state["bag_side"] = old["bags"].bag_side if "bags" in old else rng.choice(hanging_sides(person))
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
            worn = replace(worn, bag_in_front=rng.random() < 0.5, bag_side=rng.choice(hanging_sides(person)))
        outfit.append(worn)
    return tuple(outfit)


def _shortened(coat: GarmentSpec, requested: set[str]) -> GarmentSpec:
    """A coat that, closed, still shows the requested skirt or dress below its hem."""
    return replace(coat, length=0.0) if requested & {"pants", "skirts", "dresses"} else coat


def _shot(rng: Random) -> Shot:
    base, warm = rng.uniform(0.90, 0.98), rng.uniform(-0.02, 0.02)
    return Shot(
        turn=rng.uniform(-0.18, 0.18),
        zoom=rng.uniform(0.88, 1.04),
        shift=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        ground=(base + warm, base, base - warm),
    )
