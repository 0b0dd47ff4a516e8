"""Which prepared try-ons run together: as many as fit one token budget, in the order they were claimed.

A job that was delivered before runs alone, because a request that kills its worker would otherwise take the
same neighbours to the dead letter with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine_build.engine import Engine, TryOnRequest
from engine_build.token_budget import batches
from service.jobs.schemas import Claim


@dataclass(frozen=True)
class Prepared:
    """A claimed job, its pictures decoded in `prepare_s` seconds; `tokens` is the engine's own count."""

    claim: Claim
    request: TryOnRequest
    tokens: int
    prepare_s: float = 0.0

    @property
    def alone(self) -> bool:
        return self.claim.attempt > 1


def request_tokens(engine: Engine, request: TryOnRequest) -> int:
    """The engine's cost of `request`; a request without a size is counted at the engine's default area."""
    width, height = request.size or engine.describe().default_size
    tokens: int = engine.cost(width, height, len(request.garments))
    return tokens


def group(prepared: Sequence[Prepared], token_budget: int) -> list[list[Prepared]]:
    """`prepared` as the batches that run one after the other (`engine_build.token_budget`)."""
    return list(batches(prepared, token_budget, lambda item: item.tokens, lambda item: item.alone))
