"""A fleet to simulate, its workers, and what became of everything that arrived at it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SUCCEEDED, EXPIRED, FAILED, FULL, CONCURRENCY, RATE = range(6)
STATUS = ("succeeded", "expired", "failed", "queue-full", "concurrency-limited", "rate-limited")
UNSEEN = -1

# How the gateway estimates the packed length of a request (service/gateway/work/fleet.py).
TEXT_TOKENS = 512
PIXELS_A_TOKEN = 16 * 16
GARMENT_PIXELS = 512 * 512


def packed_length(width: int, height: int) -> tuple[int, int]:
    """Tokens of a request for a picture of this many pixels: text, target and person together; each garment."""
    pixels = width * height
    return TEXT_TOKENS + 2 * (pixels // PIXELS_A_TOKEN), min(GARMENT_PIXELS, pixels) // PIXELS_A_TOKEN


@dataclass(frozen=True)
class SimulatedFleet:
    """GPUs and the settings of the service that decide who waits; 0 turns a limit off.

    A request of g garments counts `tokens + g * garment_tokens` against `token_budget`. `mean_time_to_failure_s`
    kills a worker at random times; it is back after `restart_s`, its jobs after their lease.
    """

    gpus: int
    max_in_flight: int = 256
    max_backlog_s: float = 0.0
    concurrency: int = 0
    rate_per_minute: int = 0
    deadline_s: float = 120.0
    max_jobs: int = 16
    token_budget: int = 49_152
    tokens: int = 6_656
    garment_tokens: int = 1_024
    mean_time_to_failure_s: float = 0.0
    restart_s: float = 30.0
    lease_s: float = 15.0
    max_attempts: int = 3

    def cost(self, garments: int) -> int:
        return self.tokens + garments * self.garment_tokens


@dataclass(frozen=True)
class SimulatedRun:
    """What became of every arrival, in their order. Times in seconds; NaN where it never came to that.

    `status` indexes STATUS; `latency` runs from arrival to the result, `wait` from arrival to the engine's start.
    """

    status: NDArray[np.int8]
    offset: NDArray[np.float64]
    latency: NDArray[np.float64]
    wait: NDArray[np.float64]
    batches: int
    batched: int
    busy_s: float
    end_s: float
    gpus: int
    lost_leases: int

    def count(self, *statuses: int) -> int:
        return int(np.isin(self.status, statuses).sum())

    @property
    def utilisation(self) -> float:
        """Share of all GPU time until the last event in which an engine ran."""
        return self.busy_s / (self.gpus * self.end_s) if self.end_s else 0.0

    @property
    def mean_batch(self) -> float:
        return self.batched / self.batches if self.batches else 0.0


@dataclass
class SimulatedWorker:
    """One GPU: batches claimed and not started, the batch that runs, and whether it may claim."""

    index: int
    epoch: int = 0
    alive: bool = True
    claimed: deque[list[int]] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)
    ready_at: float = 0.0
    free_at: float = 0.0
    room: bool = True
    began: float = 0.0
