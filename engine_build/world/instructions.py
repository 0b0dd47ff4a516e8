"""Instructions of procedural scenes, in the grammar the service speaks."""

from __future__ import annotations

import random

from engine_build.instruction import GarmentPhrase, compose
from engine_build.world.specs import Scene

_ASIDES = (
    "please",
    "make it look natural",
    "for a wedding in June",
    "I love this one!",
    "pour un rendez-vous",
    "夏らしく",
    "thanks 🙏",
    "my size is M",
    "keep everything else",
)


def instruction_of(scene: Scene, words: str = "") -> str:
    """The sentence that asks for this scene's target; what the scene leaves open is left unsaid."""
    return compose([GarmentPhrase(g.category, g.layer_words) for g in scene.garments], words)


def with_aside(scene: Scene, rng: random.Random) -> str:
    """Like `instruction_of`; one in ten carries a customer's remark that changes nothing."""
    return instruction_of(scene, rng.choice(_ASIDES) if rng.random() < 0.1 else "")
