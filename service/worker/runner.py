"""The pipeline of one worker: claim, prepare, run, settle, each overlapping the next batch's.

The engine runs one batch at a time. The next one is claimed only when the running batch starts its last step:
early enough that its pictures are decoded by the time the engine is free, late enough that a busy worker does
not take a job an idle one could start at once. A job whose pictures take longer than its batch-mates should wait is
parked: it becomes a batch of its own when it is ready, and meanwhile the others run and more are claimed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from engine_build.engine import Engine, Outcome, StepEvent
from engine_build.errors import EngineError
from service.errors import Damaged, Gone, InvalidRequest, ServiceError, StoreUnavailable
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, JobError
from service.metrics import Metrics
from service.worker.batching import Prepared, group
from service.worker.engine_thread import EngineThread
from service.worker.finishing import Finisher
from service.worker.leases import Leases, Stop
from service.worker.pictures import Fetched, Photos, Preparing
from service.worker.progress import Progress

log = logging.getLogger(__name__)

CLAIM_BLOCK_S = 2.0
MAX_JOBS = 16
MATES_WAIT_S = 1.5
PARKED_PAUSE_S = 0.5
REFUSED: dict[type[ServiceError], str] = {Damaged: "input-damaged", Gone: "input-erased"}


class EngineBroken(Exception):
    """The engine can no longer be used; the process has to be replaced."""


@dataclass(frozen=True)
class RunnerParts:
    """What a runner works with: the engine and its thread, the jobs it holds, and where their pictures come and go."""

    engine: Engine
    thread: EngineThread
    queue: JobQueue
    worker_id: str
    leases: Leases
    photos: Photos
    progress: Progress
    finisher: Finisher
    metrics: Metrics


class Runner:
    """Claims and runs jobs until `drain`; `run_forever` ends by itself only when the engine breaks."""

    def __init__(self, parts: RunnerParts) -> None:
        self._engine = parts.engine
        self._info = parts.engine.describe()
        self._thread = parts.thread
        self._queue = parts.queue
        self._worker_id = parts.worker_id
        self._leases = parts.leases
        self._preparing = Preparing(parts.engine, parts.photos, lambda claim: self._stop_reason(claim) is None)
        self._progress = parts.progress
        self._finisher = parts.finisher
        self._metrics = parts.metrics
        self._batches: asyncio.Queue[list[Prepared]] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._settling: set[asyncio.Task[None]] = set()
        self._parked: set[asyncio.Task[None]] = set()

    def drain(self) -> None:
        """Take no new work. Jobs that wait for the engine are handed back, the running batch goes on."""
        self._draining = True
        self._room.set()

    async def drained(self) -> None:
        """Wait until nothing is held. Meaningful after `drain`."""
        await self._leases.none_held.wait()
        await self._idle.wait()
        while self._settling:
            await asyncio.wait(self._settling)

    async def claim_forever(self) -> None:
        """Claim and prepare until `drain`."""
        while True:
            await self._room.wait()
            if self._draining:
                return
            if len(self._parked) >= MAX_JOBS or (self._parked and not await self._preparing.store_answers()):
                await asyncio.wait(self._parked, timeout=PARKED_PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                claims = await self._queue.claims.claim(
                    self._worker_id,
                    max_jobs=MAX_JOBS,
                    token_budget=self._info.token_budget,
                    block_s=CLAIM_BLOCK_S,
                )
            except StoreUnavailable:
                await asyncio.sleep(0.5 + random.random())
                continue
            if not claims:
                continue
            self._leases.hold(claims)
            self._room.clear()
            fetches = [asyncio.create_task(self._fetch(claim)) for claim in claims]
            _, late = await asyncio.wait(fetches, timeout=MATES_WAIT_S)
            for fetch in late:
                self._park(fetch)
            prepared = await asyncio.gather(*(self._prepare(fetch) for fetch in fetches if fetch not in late))
            ready = [item for item in prepared if item is not None]
            for batch in group(ready, self._info.token_budget):
                self._batches.put_nowait(batch)
            if not ready:
                self._room.set()

    def _park(self, fetch: asyncio.Task[Fetched | None]) -> None:
        async def later() -> None:
            if (item := await self._prepare(fetch)) is not None:
                self._batches.put_nowait([item])

        task = asyncio.create_task(later())
        self._parked.add(task)
        task.add_done_callback(self._parked.discard)

    async def run_forever(self) -> None:
        """Run prepared batches in order. Raises EngineBroken."""
        while True:
            batch = await self._batches.get()
            self._idle.clear()
            try:
                await self._run([item for item in batch if await self._startable(item)])
            finally:
                self._idle.set()
            if self._batches.empty():
                self._room.set()

    async def _fetch(self, claim: Claim) -> Fetched | None:
        """The claim with its pictures, or None when it has been ended instead."""
        try:
            return await self._preparing.fetched(claim)
        except Exception as cause:
            self._spawn(self._end_unprepared(claim, cause))
            return None

    async def _prepare(self, fetch: asyncio.Task[Fetched | None]) -> Prepared | None:
        fetched = await fetch
        if fetched is None:
            return None
        try:
            return await self._preparing.prepared(fetched)
        except Exception as cause:
            self._spawn(self._end_unprepared(fetched.claim, cause))
            return None

    async def _end_unprepared(self, claim: Claim, cause: Exception) -> None:
        reason = self._stop_reason(claim)
        if isinstance(cause, (Gone, InvalidRequest, EngineError)):
            code = next((code for kind, code in REFUSED.items() if isinstance(cause, kind)), "unprocessable-request")
            await self._finisher.end(claim, "failed", error=JobError(code=code, message=str(cause)))
        elif reason is not None:
            await self._finisher.stop(claim, reason)
        else:
            await self._finisher.fail_attempt(claim, cause)

    def _stop_reason(self, claim: Claim) -> Stop | None:
        return "drain" if self._draining else self._leases.stop_reason(claim)

    async def _startable(self, item: Prepared) -> bool:
        """Whether the engine may begin this job; ends it otherwise, at no engine time."""
        reason = self._stop_reason(item.claim)
        if reason is None:
            return True
        self._spawn(self._finisher.stop(item.claim, reason))
        return False

    async def _run(self, batch: list[Prepared]) -> None:
        if not batch:
            return
        now = time.time()
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_tokens.observe(sum(item.tokens for item in batch))
        try:
            outcomes = await self._call_engine(batch)
        except EngineError as error:
            for item in batch:
                await self._finisher.fail_attempt(item.claim, error)
            raise EngineBroken(str(error)) from error
        except Exception as error:
            if len(batch) == 1:
                self._spawn(self._finisher.fail_attempt(batch[0].claim, error))
                return
            log.warning("a batch failed, its jobs run one by one: %r", error, exc_info=error)
            for item in batch:
                await self._run([item] if await self._startable(item) else [])
            return
        self._record_memory()
        for item, outcome in zip(batch, outcomes, strict=True):
            submitted = _submitted_at(item.claim)
            before = {
                "intake": max(0.0, submitted - item.claim.spec.created_at),
                "queue": max(0.0, now - item.prepare_s - submitted),
                "prepare": item.prepare_s,
            }
            self._spawn(self._finisher.settle(item.claim, outcome, before))

    async def _call_engine(self, batch: list[Prepared]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        claims = {item.request.id: item.claim for item in batch}
        requests = [item.request for item in batch]

        def told(event: StepEvent) -> None:
            if event.step >= event.steps - 1 and self._batches.empty():
                self._room.set()
            self._progress.note(claims[event.request_id], event)

        def on_step(event: StepEvent) -> bool:
            self._thread.sign_of_life()
            if not self._leases.may_go_on(claims[event.request_id]):
                return False
            loop.call_soon_threadsafe(told, event)
            return True

        started = time.perf_counter()
        try:
            return await self._thread.call(lambda: self._engine.run(requests, on_step))
        finally:
            self._metrics.busy_seconds.inc(time.perf_counter() - started)

    def _record_memory(self) -> None:
        if not self._info.device.startswith("cuda"):
            return
        import torch

        self._metrics.gpu_memory.labels("allocated").set(torch.cuda.memory_allocated(self._info.device))
        self._metrics.gpu_memory.labels("reserved").set(torch.cuda.memory_reserved(self._info.device))
        self._metrics.gpu_memory.labels("total").set(torch.cuda.mem_get_info(self._info.device)[1])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an end could not be written: %r", error, exc_info=error)


def _submitted_at(claim: Claim) -> float:
    """When the job entered the queue, Unix seconds: the store's clock, which its stream entry carries."""
    return int(claim.entry.partition("-")[0]) / 1000
