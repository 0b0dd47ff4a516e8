"""One request of a running batch: where it stands, what it was given, what became of it."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from PIL import Image

from engine_build.engine import AdapterUse, Outcome, TryOnRequest
from engine_build.errors import EngineError, MemoryShortage
from engine_build.model.adapters import Mixture
from engine_build.model.host_device import Landing, Stopwatch
from engine_build.request.plan import RequestPlan
from engine_build.runtime.caches import ByteCache
from engine_build.runtime.latent_state import LatentState

Value = TypeVar("Value")
StageName = Literal["text", "vae_encode", "denoise", "vae_decode"]


@dataclass
class RequestMeter:
    """What one request cost. `events` counts (cache, result); `seconds` are wall time by stage, stages never nested."""

    seconds: dict[str, float] = field(default_factory=dict)
    events: Counter[tuple[str, str]] = field(default_factory=Counter)

    @contextmanager
    def timed(self, stage: StageName, device: torch.device) -> Iterator[None]:
        """Adds the time of the block to `stage`, its work on a GPU included."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: StageName, seconds: float) -> None:
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


@dataclass(frozen=True)
class Ticket:
    """One step that the device was given; its preview, or the mere moment it ends, is on its way back."""

    watch: Stopwatch
    landing: Landing
    shown: bool


@dataclass
class RunningRequest:
    """One request on its way through its passes; it is over when it has an outcome.

    `put_off` marks one that lacked memory and waits until it has the device for itself. `base` names the model;
    `mixture` are its adapters, `used` what its outcome tells of them.
    """

    request: TryOnRequest
    base: str
    approximation: str | None
    meter: RequestMeter = field(default_factory=RequestMeter)
    planned: RequestPlan | None = None
    mixture: Mixture = ()
    used: tuple[AdapterUse, ...] = ()
    state: LatentState | None = None
    turn: int = 0
    tickets: deque[Ticket] = field(default_factory=deque)
    steps_done: int = 0
    put_off: bool = False
    outcome: Outcome | None = None

    @property
    def tokens(self) -> int:
        return self.state.tokens if self.state else 0

    @property
    def drawn(self) -> bool:
        """Whether its state has no steps left."""
        return self.state is not None and self.state.done

    def succeed(self, image: Image.Image) -> None:
        self._end(Outcome(self.request.id, "succeeded", image=image, approximation=self.approximation))

    def cancel(self) -> None:
        """Ends it; steps that the device already has count as done."""
        self.steps_done += len(self.tickets)
        self._end(Outcome(self.request.id, "canceled"))

    def fail(self, error: Exception) -> None:
        """Ends it with the error, except that a first lack of memory only puts it off."""
        if isinstance(error, torch.OutOfMemoryError):
            if not self.put_off:
                self.put_off = True
                return
            error = MemoryShortage("this try-on needs more memory than the device has: ask for a smaller picture")
        self._end(Outcome(self.request.id, "failed", error=error))

    def _end(self, outcome: Outcome) -> None:
        stages, events = dict(self.meter.seconds), dict(self.meter.events)
        self.outcome = replace(
            outcome, stages=stages, cache=events, nfe=self.steps_done, base=self.base, adapters=self.used
        )
        self.state = None
        self.tickets.clear()


def refuse_lost_device(error: Exception) -> None:
    """Raises EngineError for an accelerator error other than a lack of memory: nothing runs after it.

    Any other error loses what its frames held, so that it keeps no memory while it is passed on.
    """
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    elif isinstance(error, torch.AcceleratorError):
        raise EngineError(f"the device is lost, the engine must be loaded again: {error}") from error
