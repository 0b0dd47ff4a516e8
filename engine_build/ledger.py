"""What one request cost: seconds by stage and cache events, as its Outcome reports them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
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

    def fetch(
        self,
        name: str,
        cache: ByteCache[Value],
        keys: Sequence[Hashable],
        make: Callable[[list[int]], Sequence[Value]],
    ) -> list[Value]:
        """The values of `keys`; `make` gets the positions of those the cache lacks, all at once."""
        found: dict[Hashable, Value] = {}
        missing: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            if key not in found and key not in missing:
                kept = cache.get(key)
                if kept is None:
                    missing[key] = i
                else:
                    found[key] = kept
            self.events[name, "miss" if missing.get(key) == i else "hit"] += 1
        for key, value in zip(missing, make(list(missing.values())) if missing else (), strict=True):
            found[key] = value
            evicted = cache.put(key, value)
            if evicted:
                self.events[name, "eviction"] += evicted
        return [found[key] for key in keys]
