"""What one request cost: seconds by stage and cache events, as its Outcome reports them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch

from engine_build.reference_cache import ByteCache

Value = TypeVar("Value")
Stage = Literal["text", "vae_encode", "denoise", "vae_decode"]


@dataclass
class Ledger:
    """`events` counts (cache, result); `seconds` are wall time by stage, stages never nested."""

    seconds: dict[str, float] = field(default_factory=dict)
    events: Counter[tuple[str, str]] = field(default_factory=Counter)

    @contextmanager
    def timed(self, stage: Stage, device: torch.device) -> Iterator[None]:
        """Adds the time of the block to `stage`, its work on a GPU included."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: Stage, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def fetch(self, name: str, cache: ByteCache[Value], key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of the cache, or a fresh one that the cache then keeps."""
        kept = cache.get(key)
        self.events[name, "miss" if kept is None else "hit"] += 1
        if kept is not None:
            return kept
        value = make()
        evicted = cache.put(key, value)
        if evicted:
            self.events[name, "eviction"] += evicted
        return value
