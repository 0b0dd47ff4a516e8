"""Which prepared try-ons run together: as many as fit one token budget, in the order they were claimed.

A job that was delivered before runs alone, because a request that kills its worker would otherwise take the
same neighbours to the dead letter with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine_build.engine import Engine, TryOnRequest
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
    """Split `prepared` into batches of at most `token_budget` tokens, keeping their order.

    A request larger than the budget gets a batch of its own: the engine, not the grouping, refuses it.
    """
    batches: list[list[Prepared]] = []
    room = 0
    for item in prepared:
        if not batches or item.alone or batches[-1][-1].alone or item.tokens > room:
            batches.append([item])
            room = token_budget - item.tokens
        else:
            batches[-1].append(item)
            room -= item.tokens
    return batches
