"""The worker process: load an engine, warm it up, announce it, run jobs, drain on SIGTERM.

One process per device. The event loop claims, renews leases, reports and finishes; the engine has a thread of
its own; pictures are decoded and encoded on other threads. A worker says it is ready only after a warm-up
try-on succeeded, and takes that back before it drains. A hung engine ends the process with exit code 70 (1 when
it holds the interpreter, where only a timer in C can act), so that a supervisor starts a new one; its jobs go to
another worker when their leases run out.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict

from prometheus_client import start_http_server

from engine_build.backends import load_engine
from engine_build.engine import Engine, EngineInfo
from service.errors import InvalidRequest, ServiceError, StoreUnavailable
from service.jobs.blobs import BlobStore
from service.jobs.queue import JobQueue
from service.jobs.schemas import WorkerInfo
from service.jobs.upkeep import keep_house
from service.jobs.words import Words
from service.metrics import Metrics
from service.settings import Settings, let_threads_sleep, without_password
from service.telemetry import configure_tracing
from service.worker.activity import activity
from service.worker.cancellations import Cancellations
from service.worker.engine_thread import EngineThread
from service.worker.finishing import Finisher
from service.worker.leases import Leases
from service.worker.null_engine import NullEngine, is_null
from service.worker.pictures import Photos
from service.worker.progress import Progress
from service.worker.runner import Runner, RunnerParts
from service.worker.webhooks import WebhookDelivery, WebhookSender

log = logging.getLogger(__name__)

ANNOUNCE_EVERY_S = 5.0
ANNOUNCE_TTL_S = 16.0
HANG_CHECK_S = 1.0
FROZEN_EXTRA_S = 10.0
LAST_STEP_S = 5.0

EXIT_OK, EXIT_BROKEN, EXIT_HUNG = 0, 1, 70


def run_worker(settings: Settings) -> int:
    """Run one worker until SIGTERM or SIGINT; returns the exit code: 0 drained, 1 when the engine broke.

    Raises CheckpointError, RequestError or BackendError when the model cannot be loaded, StoreUnavailable
    when the store does not answer at the start, OSError when the metrics port is taken.
    """
    configure_tracing(settings, "changeroom-worker")
    return asyncio.run(Worker(settings).run())


def load(settings: Settings) -> Engine:
    """The engine that `settings` name, with CPU threads shared fairly between the workers of this machine."""
    if is_null(settings.model):
        return NullEngine.parse(settings.model)
    let_threads_sleep()
    import torch

    if settings.device == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(max(1, _cores() // settings.workers))
    return load_engine(
        settings.model,
        backend=settings.backend,
        device=settings.device,
        dtype=settings.dtype,
        reference_cache_bytes=settings.reference_cache_bytes,
        token_budget=settings.token_budget,
        graph_bytes=settings.graph_bytes,
        warm=settings.warm_buckets,
        loras=settings.lora_files,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Worker:
    """One worker's parts, wired; `load_with` lets another engine be put in its place."""

    def __init__(self, settings: Settings, load_with: Callable[[Settings], Engine] = load) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.metrics = Metrics()
        self._settings = settings
        self._load_with = load_with
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin to drain, as SIGTERM does."""
        self._stop.set()

    async def run(self) -> int:
        """See `run_worker`."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self.stop)
        if self._settings.metrics_port:
            start_http_server(self._settings.metrics_port, registry=self.metrics.registry)
        queue = await JobQueue.connect(self._settings, self.metrics)
        try:
            await self._check_store(queue)
            return await self._serve(queue)
        finally:
            await queue.close()

    async def _check_store(self, queue: JobQueue) -> None:
        try:
            await queue.ping()
        except StoreUnavailable as error:
            address = without_password(self._settings.redis_url)
            raise StoreUnavailable(f"the store at {address} does not answer; start it or correct REDIS_URL") from error

    async def _serve(self, queue: JobQueue) -> int:
        thread = EngineThread()
        loading = asyncio.ensure_future(thread.call(self._ready_engine))
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            log.info("stopped before the engine was ready")
            loading.cancel()
            return EXIT_OK
        engine = loading.result()
        info = engine.describe()
        log.info("engine ready", extra=asdict(info))
        blobs = BlobStore.open(self._settings)
        words = Words(blobs)
        photos = Photos(blobs, words)
        leases = Leases(queue, self._settings.lease_s)
        cancellations = Cancellations(queue.workers.news(), leases, engine, self._settings.input_ttl_s)
        progress = Progress(queue, photos)
        webhooks = self._webhooks()
        finisher = Finisher(queue, leases, photos, progress, self.metrics, info.model)
        runner = Runner(
            RunnerParts(
                engine=engine,
                thread=thread,
                queue=queue,
                worker_id=self.id,
                leases=leases,
                photos=photos,
                progress=progress,
                finisher=finisher,
                metrics=self.metrics,
            )
        )
        announcing = asyncio.create_task(self._announce_forever(queue, info, leases))
        renewing = asyncio.create_task(leases.renew_forever())
        listening = asyncio.create_task(cancellations.listen_forever())
        tidying = asyncio.create_task(cancellations.tidy_forever())
        reporting = asyncio.create_task(progress.send_forever())
        keeping_house = asyncio.create_task(keep_house(queue.upkeep, blobs, words))
        watching = asyncio.create_task(self._watch_engine(queue, thread))
        background = [announcing, renewing, listening, tidying, reporting, keeping_house, watching]
        if webhooks is not None:
            delivery = WebhookDelivery(queue, webhooks, blobs, words)
            background.append(asyncio.create_task(delivery.run_forever()))
        claiming = asyncio.create_task(runner.claim_forever())
        running = asyncio.create_task(runner.run_forever())
        try:
            await asyncio.wait((stopped, claiming, running, *background), return_when=asyncio.FIRST_COMPLETED)
            broken = next((task for task in (running, claiming, *background) if task.done()), None)
            announcing.cancel()
            await self._drain(queue, runner, leases, claiming, engine_works=not running.done())
            if broken is None:
                return EXIT_OK
            error = broken.exception()
            log.critical("the worker gives way to a new one: %r", error, exc_info=error)
            return EXIT_BROKEN
        finally:
            for task in (*background, claiming, running, stopped):
                task.cancel()
            await asyncio.gather(*background, claiming, running, stopped, return_exceptions=True)
            if webhooks is not None:
                await webhooks.close()
            faulthandler.cancel_dump_traceback_later()
            thread.close()
            photos.close()

    def _ready_engine(self) -> Engine:
        engine = self._load_with(self._settings)
        engine.warm_up()
        return engine

    def _webhooks(self) -> WebhookSender | None:
        if not self._settings.webhooks_enabled:
            return None
        if self._settings.webhook_secret is None:
            raise InvalidRequest("webhooks are enabled without CHANGEROOM_WEBHOOK_SECRET (whsec_ and base64)")
        return WebhookSender(
            self._settings.webhook_secret.get_secret_value(), allow_private=self._settings.webhook_allow_private
        )

    async def _drain(
        self,
        queue: JobQueue,
        runner: Runner,
        leases: Leases,
        claiming: asyncio.Task[None],
        *,
        engine_works: bool,
    ) -> None:
        """Finish what runs within the grace, hand the rest back."""
        runner.drain()
        self.metrics.worker_ready.set(0)
        await self._withdraw(queue)
        grace = self._settings.drain_grace_s
        log.info("draining", extra={"held": len(leases.held())})
        await asyncio.wait((claiming,), timeout=min(grace, LAST_STEP_S))
        if engine_works and not await _within(runner.drained(), max(0.0, grace - LAST_STEP_S)):
            leases.stop_all("drain")
            await _within(runner.drained(), LAST_STEP_S)
        for claim in leases.held():
            try:
                await queue.claims.hand_back(claim)
            except ServiceError:
                log.warning("a job waits for its lease to run out", extra={"job_id": claim.spec.id})
        log.info("drained")

    async def _withdraw(self, queue: JobQueue) -> None:
        try:
            await queue.workers.withdraw(self.id)
        except StoreUnavailable:
            log.warning("readiness not taken back: the store does not answer")

    async def _announce_forever(self, queue: JobQueue, info: EngineInfo, leases: Leases) -> None:
        since = time.time()
        while True:
            done = activity(self.metrics, since=since, holding=len(leases.held()))
            told = WorkerInfo(id=self.id, **asdict(info), activity=done)
            try:
                await queue.workers.announce(told, ANNOUNCE_TTL_S)
                self.metrics.worker_ready.set(1)
            except StoreUnavailable:
                self.metrics.worker_ready.set(0)
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def _watch_engine(self, queue: JobQueue, thread: EngineThread) -> None:
        """End the process when the engine hangs; should it hold the interpreter meanwhile, a timer in C does."""
        stall_s = self._settings.engine_stall_s
        while True:
            faulthandler.dump_traceback_later(stall_s + FROZEN_EXTRA_S, exit=True, file=sys.__stderr__ or 2)
            await asyncio.sleep(HANG_CHECK_S)
            if thread.stalled_for() > stall_s:
                log.critical("the engine shows no sign of life; this process gives way to a new one")
                await _within(self._withdraw(queue), 1.0)
                logging.shutdown()
                os._exit(EXIT_HUNG)


async def _within(work: Coroutine[object, object, None], seconds: float) -> bool:
    """Whether `work` ended in time; it is canceled otherwise."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
