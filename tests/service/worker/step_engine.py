"""An engine whose steps tests can hold, a worker around it in this process, and ways to wait for a job."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from engine_build.engine import EngineInfo, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import EngineError, MemoryShortage
from service.jobs.queue import JobQueue
from service.jobs.schemas import TERMINAL, JobRecord
from service.settings import Settings
from service.worker.main import Worker
from service.worker.null_engine import NullEngine

PERSON = Image.effect_noise((96, 128), 60).convert("RGB")


class StepEngine:
    """Steps of real time; requests whose prompt says so fail in the ways an engine can fail.

    `gate` holds the engine before each step while it is cleared. `ran` lists the batches by job id,
    `steps_run` counts steps by job.
    """

    def __init__(self, steps: int = 4, step_seconds: float = 0.02, token_budget: int = 4) -> None:
        self.steps = steps
        self.step_seconds = step_seconds
        self.token_budget = token_budget
        self.gate = threading.Event()
        self.gate.set()
        self.ran: list[list[str]] = []
        self.steps_run: dict[str, int] = {}
        self.warmed = False
        self.forgotten: list[tuple[Collection[str] | None, bool, float | None]] = []
        self.warm_up_gate = threading.Event()
        self.warm_up_gate.set()

    def describe(self) -> EngineInfo:
        return replace(NullEngine(self.steps).describe(), model="steps", token_budget=self.token_budget)

    def warm_up(self) -> None:
        self.warm_up_gate.wait(20)
        self.warmed = True

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        self.forgotten.append((content, words, older_than_s))

    def cost(self, width: int, height: int, garments: int) -> int:
        return 1

    def run(self, requests: Sequence[TryOnRequest], on_step: OnStep | None = None) -> list[Outcome]:
        self.ran.append([request.id for request in requests])
        for request in requests:
            if "poison" in request.instruction:
                raise RuntimeError("a kernel failed")
            if "break" in request.instruction:
                raise EngineError("the device is lost")
        running = {request.id for request in requests}
        for step in range(1, self.steps + 1):
            self.gate.wait(20)
            time.sleep(self.step_seconds)
            for request in requests:
                if request.id not in running:
                    continue
                self.steps_run[request.id] = self.steps_run.get(request.id, 0) + 1
                event = StepEvent(request.id, step, self.steps, request.person.image)
                if on_step is not None and not on_step(event):
                    running.discard(request.id)
            if not running:
                break
        short = MemoryShortage("this try-on needs more memory than the device has")
        return [
            Outcome(r.id, "failed", error=short)
            if "huge" in r.instruction
            else Outcome(r.id, "succeeded", image=r.person.image, stages={"denoise": 0.1}, nfe=self.steps)
            if r.id in running
            else Outcome(r.id, "canceled")
            for r in requests
        ]


@asynccontextmanager
async def working(settings: Settings, engine: Any) -> AsyncIterator[Worker]:
    """A worker running in this event loop; drained at the end."""
    worker = Worker(settings, load_with=lambda _: engine)
    running = asyncio.create_task(worker.run())
    worker.finished = running  # type: ignore[attr-defined]
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (the engine's thread cannot set an asyncio.Event)
            await asyncio.sleep(0.02)


async def ended(queue: JobQueue, job_id: str, seconds: float = 60) -> JobRecord:
    """The record of a job once it is terminal."""
    return await until(queue, job_id, lambda record: record.status in TERMINAL, seconds)


async def until(queue: JobQueue, job_id: str, true: Callable[[JobRecord], bool], seconds: float = 60) -> JobRecord:
    async with asyncio.timeout(seconds):
        while True:
            record = await queue.owner.get(job_id)
            assert record is not None
            if true(record):
                return record
            await asyncio.sleep(0.02)
