"""Faults that the null engine shows on request, so that fault runs meet real processes that really break.

They exist only when the model's name asks for them: `null:4:0.1:error@13,kill@14` breaks on requests whose
seed is 13 or 14 and serves all others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine_build.engine import TryOnRequest
from engine_build.errors import EngineError
from service.errors import InvalidRequest

FAULTS = ("error", "oom", "lost", "hang", "freeze", "kill")
AT_STEP = 2
FOREVER_S = 2**30


@dataclass(frozen=True)
class Faults:
    """The fault of each seed.

    `error` raises on the whole batch; `oom` fails one request for lack of memory unless it runs alone; `lost`
    raises EngineError as a lost device does; `hang` never returns; `freeze` never returns and holds the
    interpreter, as a stuck extension does; `kill` ends the process with SIGKILL.
    """

    by_seed: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `NAME@SEED,NAME@SEED`. Raises InvalidRequest for a name or a seed that is none."""
        by_seed: dict[int, str] = {}
        for item in text.split(","):
            name, _, seed = item.partition("@")
            if name not in FAULTS or not seed.isdecimal():
                raise InvalidRequest(f"fault {item!r} is not NAME@SEED with one of {', '.join(FAULTS)}")
            by_seed[int(seed)] = name
        return cls(by_seed)

    def strike(self, batch: Sequence[TryOnRequest], step: int) -> None:
        """Break at the second step, if a request of the batch asks for it."""
        if step != AT_STEP:
            return
        for request in batch:
            match self.by_seed.get(request.seed):
                case "error":
                    raise RuntimeError("a kernel failed")
                case "lost":
                    raise EngineError("the device is lost, the engine must be loaded again")
                case "hang":
                    threading.Event().wait()
                case "freeze":
                    ctypes.PyDLL(None).sleep(FOREVER_S)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)

    def starved(self, request: TryOnRequest, batch_size: int) -> bool:
        """Whether memory does not suffice for this request in a batch of this size."""
        return batch_size > 1 and self.by_seed.get(request.seed) == "oom"
