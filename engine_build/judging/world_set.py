"""Scenes of the procedural world as a set to judge: drawn when looked at, with the truth of each.

Scene i is that of `changeroom evaluate`: the held-out seed i, of 1 to 6 garments in turn unless a number is asked for.
"""

from __future__ import annotations

import io
from functools import lru_cache

from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS
from engine_build.judging.folders import DRAWN
from engine_build.judging.samples import JudgedSet, Picture, Reference, Sample
from engine_build.world.instructions import instruction_of
from engine_build.world.render import Rendered, render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import Scene

HEIGHT = 96


def world(said: str) -> JudgedSet:
    """COUNT[:GARMENTS[:HEIGHT]]. Raises RequestError for anything else."""
    numbers = said.split(":")
    if not 1 <= len(numbers) <= 3 or not all(number.isdecimal() for number in numbers):
        raise RequestError(f"world:{said} is not world:COUNT[:GARMENTS[:HEIGHT]], such as world:48 or world:48:3:96")
    count, garments, height = (*map(int, numbers), *(0, HEIGHT)[len(numbers) - 1 :])
    if not 0 <= garments <= MAX_GARMENTS or height % 4 or height < 32:
        raise RequestError(f"world:{said}: garments are 0 (in turn) to {MAX_GARMENTS}, heights multiples of 4 from 32")
    return JudgedSet(f"world:{said}", tuple(_sample(i, garments or 1 + i % MAX_GARMENTS, height) for i in range(count)))


def _sample(number: int, garments: int, height: int) -> Sample:
    scene = sample_scene(HELD_OUT_SEED + number, garments)

    def drawn(part: str, index: int = 0) -> bytes:
        tensors = _drawn(number, garments, height)
        shown = {"person": tensors.person, "truth": tensors.target}.get(part)
        stream = io.BytesIO()
        picture(tensors.garments[0, index] if shown is None else shown[0]).save(stream, "PNG")
        return stream.getvalue()

    references = tuple(
        Reference(Picture(read=lambda i=i: drawn("garment", i)), g.category, g.pattern, g.layer_words)  # type: ignore[misc]
        for i, g in enumerate(scene.garments)
    )
    return Sample(
        id=f"world-{number:05d}",
        person=Picture(read=lambda: drawn("person")),
        references=references,
        instruction=instruction_of(scene),
        truth=Picture(read=lambda: drawn("truth")),
        facts={DRAWN: (number, garments)},
    )


@lru_cache(maxsize=16)
def _drawn(number: int, garments: int, height: int) -> Rendered:
    return render([scene_of(number, garments)], height, height // 2)


def scene_of(number: int, garments: int) -> Scene:
    """The held-out scene of a number, as `changeroom samples --seed NUMBER` draws it."""
    return sample_scene(HELD_OUT_SEED + number, garments)
