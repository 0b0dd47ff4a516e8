"""The tables of the stages that learn by flow matching alone: general edits, growing sizes, try-ons.

The other stages keep theirs beside what runs them; `registry.STAGES` names them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine_build.training.loop.learner import StageConfig


@dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Stage A: general edits; `tryon_share` of the samples are try-ons already."""

    tryon_share: float = 0.2
    train_text: bool = True


@dataclass(frozen=True)
class ResolutionConfig(StageConfig):
    """Stage B: sizes in turn. `heights[i]` with shots of `shots[i]` from step `begins[i]` on."""

    tryon_share: float = 0.5
    heights: tuple[int, ...] = (48, 64)
    shots: tuple[int, ...] = (24, 32)
    begins: tuple[int, ...] = (0, 500)
    train_text: bool = True


@dataclass(frozen=True)
class TryOnConfig(StageConfig):
    """Stage C: try-ons balanced over categories, `mix[k - 1]` the frequency of k garments.

    Patterns named in `rare` show in one scene of `rare_one_in`. Every `validate_every` steps the log tells each
    category's loss on held-out scenes.
    """

    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    rare: tuple[str, ...] = ()
    rare_one_in: int = 20
    validate_every: int = 200
    train_text: bool = True
