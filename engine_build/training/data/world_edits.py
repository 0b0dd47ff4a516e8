"""Stage A's source: general edits of the procedural world, each with its instruction and its exact truth.

recolour, remove, add, move, copy (from a product shot or from another person), outfit (several copies at once)
and restyle (the backdrop of another picture). The truth is the edited scene drawn again, so whatever the
instruction does not name is the same to the pixel. What "add" leaves unsaid is drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine_build.instruction import NOUNS
from engine_build.training.data.sample import PERSON, Sample
from engine_build.world.casting import hanging_sides, sample_backdrop
from engine_build.world.scenes import sample_garment, sample_scene
from engine_build.world.shots import product_shots
from engine_build.world.specs import COLOURS, PALETTE, GarmentSpec, Scene, Shot, Worn
from engine_build.world.wrong_outfits import Outfit, draw, rewear

_REMOVABLE = ("coats", "bags", "hats")
_FAR = 0.22
"""Squared distance from which two colours of the palette cannot be taken for each other."""


@dataclass(frozen=True)
class Edit:
    """A scene before and after, what is said, and references: product shots or other scenes' pictures."""

    task: str
    before: tuple[Scene, Outfit]
    after: tuple[Scene, Outfit]
    instruction: str
    shots: tuple[tuple[GarmentSpec, Shot], ...] = ()
    pictures: tuple[tuple[Scene, Outfit], ...] = ()
    categories: tuple[str, ...] = field(default=())


def recolour(scene: Scene, rng: random.Random) -> Edit:
    """Another main colour for something worn."""
    worn = rng.choice(scene.worn)
    colour = _far_from(worn.spec, rng)
    after = rewear(scene.worn, worn.spec.category, spec=replace(worn.spec, colour=colour))
    told = f"Change the colour of the {_noun(worn.spec)} to {colour}. Keep everything else."
    return _edit("recolour", scene, after, told)


def remove(scene: Scene, rng: random.Random) -> Edit | None:
    """Something taken off that people can do without."""
    removable = [w for w in scene.worn if w.spec.category in _REMOVABLE]
    if not removable:
        return None
    gone = rng.choice(removable)
    after = tuple(w for w in scene.worn if w is not gone)
    return _edit("remove", scene, after, f"Remove the {_noun(gone.spec)}. Keep everything else.")


def add(scene: Scene, rng: random.Random) -> Edit | None:
    """Something new, described in words."""
    absent = _absent(scene)
    if not absent:
        return None
    spec = sample_garment(rng, rng.choice(absent))
    told = f"Add {spec.description}. Keep everything else."
    return _edit("add", scene, _with(scene, spec, rng), told)


def move(scene: Scene, rng: random.Random) -> Edit | None:
    """The bag to the other side, or the person along the picture."""
    bags = [w for w in scene.worn if w.spec.category == "bags"]
    if bags and len(hanging_sides(scene.person)) == 2:
        after = rewear(scene.worn, "bags", bag_side=-bags[0].bag_side)
        return _edit("move", scene, after, "Move the bag to the other side. Keep everything else.")
    left = scene.person.cx > 0.375
    cx = scene.person.cx + (-1 if left else 1) * rng.uniform(0.05, 0.07)
    moved = replace(scene, person=replace(scene.person, cx=cx))
    told = f"Move the person to the {'left' if left else 'right'}. Keep everything else."
    return Edit("move", (scene, scene.worn), (moved, scene.worn), told)


def copy(scene: Scene, rng: random.Random) -> Edit:
    """A garment of a product shot, or of another person's picture, in the place of one that is worn."""
    worn = rng.choice(scene.worn)
    category = worn.spec.category
    if rng.random() < 0.5:
        spec = sample_garment(rng, category)
        after = rewear(scene.worn, category, spec=spec)
        told = f"Replace the {_noun(worn.spec)} by the {NOUNS[category]} of image 2. Keep everything else."
        return _edit("copy", scene, after, told, shots=((spec, _shot(rng)),), categories=(category,))
    other = _other(rng)
    match = next((w for w in other.worn if w.spec.category == category), None)
    spec = match.spec if match else sample_garment(rng, category)
    theirs = other.worn if match else (*other.worn, Worn(spec, folds=rng.uniform(0, 6.28)))
    after = rewear(scene.worn, category, spec=spec)
    told = f"Replace the {_noun(worn.spec)} by the {NOUNS[category]} that the person of image 2 wears."
    return _edit("copy", scene, after, told, pictures=((other, theirs),), categories=(category,))


def outfit(scene: Scene, rng: random.Random) -> Edit:
    """Two or three worn things replaced at once, each by its own image."""
    chosen = rng.sample(scene.worn, k=min(len(scene.worn), rng.choice((2, 3))))
    after, shots, parts = scene.worn, [], []
    for i, worn in enumerate(chosen, start=2):
        category = worn.spec.category
        spec = sample_garment(rng, category)
        after = rewear(after, category, spec=spec)
        shots.append((spec, _shot(rng)))
        parts.append(f"the {_noun(worn.spec)} by the {NOUNS[category]} of image {i}")
    told = f"Replace {', '.join(parts[:-1])} and {parts[-1]}. Keep everything else."
    categories = tuple(w.spec.category for w in chosen)
    return _edit("outfit", scene, after, told, shots=tuple(shots), categories=categories)


def restyle(scene: Scene, rng: random.Random) -> Edit:
    """The person before the backdrop of another picture."""
    other = _other(rng)
    elsewhere = replace(scene, backdrop=other.backdrop)
    return Edit(
        "restyle",
        (scene, scene.worn),
        (elsewhere, scene.worn),
        "Replace the background by that of image 2. Keep the person.",
        pictures=((other, other.worn),),
        categories=("background",),
    )


TASKS: dict[str, Callable[[Scene, random.Random], Edit | None]] = {
    "recolour": recolour,
    "remove": remove,
    "add": add,
    "move": move,
    "copy": copy,
    "outfit": outfit,
    "restyle": restyle,
}


def edit_of(number: int) -> Edit:
    """The edit of a number. Tasks take turns; one that a scene does not allow is asked of the next scene."""
    tasks = tuple(TASKS)
    rng = random.Random(f"edit/{number}")
    for attempt in range(64):
        scene = sample_scene(number * 64 + attempt)
        edit = TASKS[tasks[number % len(tasks)]](scene, rng)
        if edit is not None:
            return edit
    return recolour(scene, rng)


@dataclass(frozen=True)
class Edits:
    """Edits by number, pictures of `height` x 3/4 `height` pixels, product shots of `shot` x `shot`."""

    height: int = 64
    shot: int = 32

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples of edits; a reference picture of another person has the size of the target."""
        edits = [edit_of(number) for number in numbers]
        wanted = [outfit for edit in edits for outfit in (edit.before, edit.after, *edit.pictures)]
        pictures, _ = draw(wanted, self.height)
        specs = [one for edit in edits for one in edit.shots]
        shots = product_shots([s for s, _ in specs], [q for _, q in specs], self.shot) if specs else torch.empty(0)
        result, row, shot = [], 0, 0
        for edit in edits:
            before, after, *others = pictures[row : row + 2 + len(edit.pictures)]
            row += 2 + len(edit.pictures)
            own = shots[shot : shot + len(edit.shots)]
            shot += len(edit.shots)
            result.append(
                Sample(
                    references=(before, *own, *others),
                    categories=(PERSON, *edit.categories),
                    target=after,
                    instruction=edit.instruction,
                    edited=changed(before, after),
                )
            )
        return result


def changed(before: Tensor, after: Tensor) -> Tensor:
    """(H, W) 1 where two pictures differ by more than a hair."""
    return ((before - after).abs().amax(0) > 0.02).float()


def _edit(task: str, scene: Scene, after: Outfit, told: str, **more: object) -> Edit:
    return Edit(task, (scene, scene.worn), (scene, after), told, **more)  # type: ignore[arg-type]


def _noun(spec: GarmentSpec) -> str:
    return NOUNS[spec.category]


def _far_from(spec: GarmentSpec, rng: random.Random) -> str:
    taken = [PALETTE[spec.colour], PALETTE[spec.colour2]]
    far = [
        c for c in COLOURS if all(sum((p - q) ** 2 for p, q in zip(PALETTE[c], t, strict=True)) > _FAR for t in taken)
    ]
    return rng.choice(far or [c for c in COLOURS if c not in (spec.colour, spec.colour2)])


def _absent(scene: Scene) -> list[str]:
    worn = {w.spec.category for w in scene.worn}
    return [c for c in _REMOVABLE if c not in worn and (c != "bags" or hanging_sides(scene.person))]


def _with(scene: Scene, spec: GarmentSpec, rng: random.Random) -> Outfit:
    state: dict[str, object] = {"folds": rng.uniform(0, 6.28)}
    if spec.category == "bags":
        state |= {"bag_side": rng.choice(hanging_sides(scene.person)), "bag_in_front": rng.random() < 0.5}
    if spec.category == "coats":
        state["coat_open"] = rng.random() < 0.5
    return (*scene.worn, Worn(spec, **state))  # type: ignore[arg-type]


def _other(rng: random.Random) -> Scene:
    other = sample_scene(rng.randrange(10**8))
    return replace(other, backdrop=sample_backdrop(rng))


def _shot(rng: random.Random) -> Shot:
    base = rng.uniform(0.90, 0.98)
    return Shot(
        turn=rng.uniform(-0.18, 0.18),
        zoom=rng.uniform(0.88, 1.04),
        shift=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        ground=(base, base, base),
    )
