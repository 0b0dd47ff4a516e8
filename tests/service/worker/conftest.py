"""A real store, a real blob folder and real workers in this process, with an engine whose steps tests can hold."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine_build.engine import EngineInfo, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import EngineError
from service.jobs.embedded import EmbeddedServer, start_server
from service.jobs.queue import JobQueue
from service.jobs.schemas import TERMINAL, GarmentRef, JobRecord, JobSpec, Limits, Reserved
from service.jobs.storage import BlobStore
from service.settings import Settings, load_settings
from service.worker.main import Worker
from service.worker.null_engine import NullEngine

PERSON = Image.effect_noise((96, 128), 60).convert("RGB")


class StepEngine:
    """Steps of real time; requests whose prompt says so fail in the ways an engine can fail.

    `gate` holds the engine before each step while it is cleared. `ran` lists the batches by job id, `steps_run`
    counts steps by job.
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
        self.warm_up_gate = threading.Event()
        self.warm_up_gate.set()

    def describe(self) -> EngineInfo:
        return replace(NullEngine(self.steps).describe(), model="steps", token_budget=self.token_budget)

    def warm_up(self) -> None:
        self.warm_up_gate.wait(20)
        self.warmed = True

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
        return [
            Outcome(r.id, "succeeded", image=r.person.image, stages={"denoise": 0.1}, nfe=self.steps)
            if r.id in running
            else Outcome(r.id, "canceled")
            for r in requests
        ]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    running = start_server(tmp_path_factory.mktemp("store"))
    yield running
    running.stop()


@pytest.fixture
def settings(server: EmbeddedServer, tmp_path: Path) -> Settings:
    return load_settings(
        redis_url=server.url, data_dir=tmp_path, lease_s=2, heartbeat_s=0.5, sweep_s=0.2, drain_grace_s=8
    )


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[JobQueue]:
    connected = await JobQueue.connect(settings)
    await connected.store.client.flushall()
    yield connected
    await connected.close()


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return BlobStore.open(settings)


Submit = Callable[..., Any]


@pytest.fixture
def submit(queue: JobQueue, blobs: BlobStore) -> Submit:
    """Put a job in the queue as the gateway would; keyword arguments go into its JobSpec. Returns its id."""

    async def put(**said: Any) -> str:
        out = io.BytesIO()
        PERSON.save(out, "PNG")
        reserved = await queue.reserve(
            tenant="t", idempotency_key=None, body_digest="d",
            limits=Limits(concurrency=0, rate_per_minute=0, daily_quota=0),
        )  # fmt: skip
        assert isinstance(reserved, Reserved)
        key = await blobs.put(out.getvalue(), kind="input", content_type="image/png")
        now = time.time()
        given = {
            "id": reserved.id, "tenant": "t", "person": key, "garments": (GarmentRef(blob=key, category="tops"),),
            "instruction": "wear it", "instruction_by": "grammar", "seed": 1, "created_at": now,
            "deadline_at": now + 60, "tokens": 1, "output_format": "png",
        }  # fmt: skip
        await queue.submit(reserved, JobSpec(**(given | said)))
        return reserved.id

    return put


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


async def ended(queue: JobQueue, job_id: str, seconds: float = 15) -> JobRecord:
    """The record of a job once it is terminal."""
    return await until(queue, job_id, lambda record: record.status in TERMINAL, seconds)


async def until(
    queue: JobQueue, job_id: str, true: Callable[[JobRecord], bool], seconds: float = 15
) -> JobRecord:
    async with asyncio.timeout(seconds):
        while True:
            record = await queue.get(job_id)
            assert record is not None
            if true(record):
                return record
            await asyncio.sleep(0.02)
