"""One request of a running batch: where it stands, what it was given, what became of it."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from engine_build.draft import Draft
from engine_build.dressing import Dressing
from engine_build.engine import Outcome, TryOnRequest
from engine_build.errors import EngineError, MemoryShortage
from engine_build.ledger import Ledger
from engine_build.transfer import Landing, Stopwatch


@dataclass(frozen=True)
class Ticket:
    """One step that the device was given; its preview, or the mere moment it ends, is on its way back."""

    watch: Stopwatch
    landing: Landing
    shown: bool


@dataclass
class Job:
    """One request on its way through its passes; it is over when it has an outcome.

    `put_off` marks one that lacked memory and waits until it has the device for itself.
    """

    request: TryOnRequest
    approximation: str | None
    ledger: Ledger = field(default_factory=Ledger)
    dressing: Dressing | None = None
    draft: Draft | None = None
    turn: int = 0
    tickets: deque[Ticket] = field(default_factory=deque)
    steps_done: int = 0
    put_off: bool = False
    outcome: Outcome | None = None

    @property
    def tokens(self) -> int:
        return self.draft.tokens if self.draft else 0

    @property
    def drawn(self) -> bool:
        """Whether its draft has no steps left."""
        return self.draft is not None and self.draft.done

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
        stages, events = dict(self.ledger.seconds), dict(self.ledger.events)
        self.outcome = replace(outcome, stages=stages, cache=events, nfe=self.steps_done)
        self.draft = None
        self.tickets.clear()


def grouped(jobs: Sequence[Job], budget: int) -> Iterator[list[Job]]:
    """Jobs in order, as many to a forward as `budget` tokens hold, at least one."""
    group: list[Job] = []
    room = budget
    for job in jobs:
        if group and job.tokens > room:
            yield group
            group = []
        room = (room if group else budget) - job.tokens
        group.append(job)
    if group:
        yield group


def refuse_lost_device(error: Exception) -> None:
    """Raises EngineError for an accelerator error other than a lack of memory: nothing runs after it.

    Any other error loses what its frames held, so that it keeps no memory while it is passed on.
    """
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    elif isinstance(error, torch.AcceleratorError):
        raise EngineError(f"the device is lost, the engine must be loaded again: {error}") from error
