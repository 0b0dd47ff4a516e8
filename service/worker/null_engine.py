"""An engine that does no work, for measuring everything else: `make bench-gateway`, fault runs and tests.

Never chosen by itself: only the model names `null` and `null:STEPS:SECONDS[:FAULTS]` load it. It answers with
the person's own picture after STEPS pretended steps of SECONDS each. FAULTS are those of
`Faults`: `null:4:0.1:error@13,kill@14` breaks on requests whose seed is 13 or 14 and serves all others.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from engine_build.engine import AdapterInfo, EngineInfo, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import BackendError, EngineError, RequestError
from engine_build.instruction import MAX_GARMENTS
from service.errors import InvalidRequest

NAME = "null"
JOB_TOKENS = 8192
BATCH_JOBS = 4
FAULTS = ("error", "oom", "lost", "hang", "freeze", "kill")
AT_STEP = 2
FOREVER_S = 2**30


def is_null(model: str) -> bool:
    return model == NAME or model.startswith(NAME + ":")


class NullEngine:
    """Returns the person's picture; `steps` and `step_seconds` imitate a slow engine."""

    def __init__(self, steps: int = 1, step_seconds: float = 0.0, faults: Faults | None = None) -> None:
        self.steps = steps
        self.step_seconds = step_seconds
        self.faults = faults or Faults()

    @classmethod
    def parse(cls, model: str) -> NullEngine:
        """Read `null` or `null:STEPS:SECONDS[:FAULTS]`. Raises InvalidRequest for anything else."""
        parts = model.split(":")
        try:
            if parts == [NAME]:
                return cls()
            if len(parts) in (3, 4) and parts[0] == NAME and int(parts[1]) > 0 and float(parts[2]) >= 0:
                return cls(int(parts[1]), float(parts[2]), Faults.parse(parts[3]) if len(parts) == 4 else None)
        except ValueError:
            parts = []
        raise InvalidRequest(f"model {model!r} is not null or null:STEPS:SECONDS, for example null:8:0.25")

    def describe(self) -> EngineInfo:
        return EngineInfo(
            model=NAME,
            backend="null",
            device="none",
            reference_attention="isolated",
            max_references=1 + MAX_GARMENTS,
            default_size=(768, 1024),
            max_pixels=40_000_000,
            size_multiple=1,
            default_steps=self.steps,
            max_steps=64,
            token_budget=BATCH_JOBS * JOB_TOKENS,
            note="answers with the person's own picture; for measuring the service only",
        )

    def warm_up(self) -> None:
        return None

    def register_adapter(self, name: str, path: Path) -> AdapterInfo:
        raise BackendError(f"{NAME} runs no model that {path} could change")

    def remove_adapter(self, name: str) -> None:
        raise RequestError(f"there is no adapter named {name!r}")

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return ()

    def cost(self, width: int, height: int, garments: int) -> int:
        return JOB_TOKENS

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        return None

    def _picture(self, request: TryOnRequest) -> Image.Image:
        """The person at the size a real engine would answer with, by the cheapest resize there is."""
        person: Image.Image = request.person.image
        width, height = self.describe().default_size
        scale = min(1.0, math.sqrt(width * height / (person.width * person.height)))
        fitting = (max(1, round(person.width * scale)), max(1, round(person.height * scale)))
        size = request.size or fitting
        return person if size == person.size else person.resize(size, Image.Resampling.NEAREST)

    def run(self, requests: Sequence[TryOnRequest], on_step: OnStep | None = None) -> list[Outcome]:
        started = time.perf_counter()
        running = {request.id: request for request in requests}
        for step in range(1, self.steps + 1):
            if self.step_seconds:
                time.sleep(self.step_seconds)
            self.faults.strike(requests, step)
            for request_id in list(running):
                event = StepEvent(request_id, step, self.steps)
                if on_step is not None and not on_step(event):
                    del running[request_id]
            if not running:
                break
        seconds = time.perf_counter() - started
        return [self._outcome(request, request.id in running, len(requests), seconds) for request in requests]

    def _outcome(self, request: TryOnRequest, wanted: bool, batch_size: int, seconds: float) -> Outcome:
        if not wanted:
            return Outcome(request.id, "canceled")
        if request.adapters:
            return Outcome(request.id, "failed", error=RequestError(f"{NAME} has no adapters"))
        if self.faults.starved(request, batch_size):
            return Outcome(request.id, "failed", error=MemoryError("out of memory"))
        picture, stages = self._picture(request), {"denoise": seconds}
        return Outcome(request.id, "succeeded", image=picture, stages=stages, nfe=self.steps)


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
