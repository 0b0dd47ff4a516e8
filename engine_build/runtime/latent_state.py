"""One picture on its way: what it is made from, and how far its denoising is.

Letters: L target tokens, Lt text tokens of width Dt, C channels of a token.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from engine_build.model.adapters import Mixture
from engine_build.model.packing import Reference
from engine_build.model.reference_kv import ReferenceKV


@dataclass(frozen=True)
class Conditioning:
    """What a picture is made from: text `(Lt, Dt)`, references as tokens (joint) or keys and values, adapters.

    `events` is where loads of its adapters are counted, as (cache, result).
    """

    text: Tensor
    references: tuple[Reference, ...] = ()
    kv: ReferenceKV | None = None
    mixture: Mixture = ()
    events: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class LatentState:
    """One picture being denoised: tokens x `(L, C)` float32 at noise level `sigmas[step]`.

    `levels` are the same sigmas `[steps + 1]`, float32, on the device.
    """

    conditioning: Conditioning
    x: Tensor
    ids: Tensor
    rows: int
    columns: int
    sigmas: tuple[float, ...]
    levels: Tensor
    step: int = 0

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def tokens(self) -> int:
        """Tokens it brings to a forward, references included."""
        made = self.conditioning
        references = made.kv.segments.total if made.kv else sum(len(r.tokens) for r in made.references)
        return len(self.x) + len(made.text) + references

    @property
    def done(self) -> bool:
        return self.step >= self.steps
