"""Which requests share a batch: the one rule of the token budget.

In order, as many as fit the budget together, and the first always: one larger than the whole budget gets a batch of
its own, because the engine refuses or carries it, not the grouping. `jobs/scripts/claim.lua` follows the same rule
where jobs are leased, line by line of priority, on the estimates of admission; a test holds it to this one. Plain
Python: free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Request = TypeVar("Request")


def _together(_: object) -> bool:
    return False


def batches(
    requests: Iterable[Request],
    budget: int,
    tokens: Callable[[Request], int],
    alone: Callable[[Request], bool] = _together,
) -> Iterator[list[Request]]:
    """`requests` in batches of at most `budget` tokens, in their order; who is `alone` shares with none."""
    batch: list[Request] = []
    room = budget
    for request in requests:
        if batch and (alone(request) or alone(batch[-1]) or tokens(request) > room):
            yield batch
            batch, room = [], budget
        batch.append(request)
        room -= tokens(request)
    if batch:
        yield batch
