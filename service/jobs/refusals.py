"""What admission answers when it says no, as the errors a caller meets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.errors import Conflict, IdempotencyMismatch, QueueFull, ServiceError, TooManyRequests

FULL = "As many jobs as we can take are in flight; try again."


def refusal(answer: Sequence[str]) -> ServiceError:
    """The error for an answer of `reserve.lua` other than reserved or existing.

    QueueFull, TooManyRequests (rate-limited, concurrency-limited, quota-exceeded), IdempotencyMismatch, or a
    retryable Conflict for a twin that is still being read. `retry_after` is in whole seconds.
    """
    retry_after = math.ceil(float(answer[1])) if len(answer) > 1 else 1
    match answer[0]:
        case "mismatch":
            return IdempotencyMismatch("This Idempotency-Key came with another body; use a new key.")
        case "pending":
            error = Conflict(
                "The first request with this Idempotency-Key is still being read; try again.",
                code="idempotency-in-progress",
                retry_after=retry_after,
            )
            error.retryable = True
            return error
        case "full":
            return QueueFull(FULL, retry_after=retry_after)
        case "rate":
            return TooManyRequests(
                "Too many requests a minute for this key.", code="rate-limited", retry_after=retry_after
            )
        case "concurrency":
            return TooManyRequests(
                "Too many jobs of this key are in flight; wait for one to end.",
                code="concurrency-limited",
                retry_after=retry_after,
            )
        case "quota":
            return TooManyRequests(
                "The daily quota of this key is used up.", code="quota-exceeded", retry_after=retry_after
            )
        case other:
            raise ValueError(f"admission answered {other!r}")
