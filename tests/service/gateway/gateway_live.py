"""A real gateway on a loopback port over a real Valkey, and a worker coroutine with a plain engine.

Everything runs on one event loop in a thread of its own, so that synchronous clients (SDKs) and raw sockets
can be used in tests. The worker claims through the real queue; only the picture it makes is trivial.
"""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from service.errors import Gone, StoreUnavailable
from service.gateway.app import server
from service.jobs.blobs import BlobStore
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, JobError, JobRecord, JobResult, WorkerInfo
from service.pictures.images import encode_result, open_photo, preview_jpeg
from service.settings import Settings

INFO = WorkerInfo(
    id="test-worker",
    model="plain",
    backend="torch",
    device="cpu",
    reference_attention="isolated",
    max_references=7,
    default_size=(192, 256),
    max_pixels=1024 * 1024,
    size_multiple=16,
    default_steps=2,
    max_steps=20,
    token_budget=100_000,
    note="Paints a square on the person.",
)

Part = tuple[str, tuple[str, bytes, str]]


def picture(width: int = 96, height: int = 128, colour: str = "teal", format: str = "JPEG", **save: Any) -> bytes:
    """An encoded plain picture."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, format, **save)
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def parts(garments: int = 1) -> list[Part]:
    """A form with a person and garments that differ."""
    worn = [("garment", (f"g{i}.jpg", picture(64, 64 + i, "navy"), "image/jpeg")) for i in range(garments)]
    return [("person", ("p.jpg", picture(colour="bisque"), "image/jpeg")), *worn]


def closed_after(raw: socket.socket) -> tuple[float, bytes]:
    """Seconds until the server closes, and what it said before."""
    started, said = time.monotonic(), b""
    try:
        while chunk := raw.recv(65536):
            said += chunk
    except ConnectionResetError:
        said += b""
    return time.monotonic() - started, said


class PlainWorker:
    """Claims jobs while `open` is set and finishes them with the person and a square of the first garment."""

    def __init__(self, queue: JobQueue, blobs: BlobStore) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.parked = asyncio.Event()
        self.failing: JobError | None = None
        self._queue = queue
        self._blobs = blobs

    async def run(self) -> None:
        while True:
            try:
                await self._turn()
            except StoreUnavailable:
                await asyncio.sleep(0.1)

    async def _turn(self) -> None:
        await self._queue.workers.announce(INFO, 30)
        if not self.open.is_set():
            self.parked.set()
            await self.open.wait()
            self.parked.clear()
        for claim in await self._queue.claims.claim(INFO.id, max_jobs=4, token_budget=10**9, block_s=0.2):
            try:
                await self._serve(claim)
            except Gone:
                await self._queue.claims.fail_attempt(claim, JobError(code="inputs-gone", message="Erased."))

    async def _serve(self, claim: Claim) -> None:
        if self.failing is not None:
            await self._queue.claims.finish(claim, status="failed", error=self.failing)
            return
        spec = claim.spec
        person = open_photo(await self._blobs.get(spec.person))
        garment = open_photo(await self._blobs.get(spec.garments[0].blob))
        image = person.resize(spec.size or INFO.default_size)
        image.paste(garment.resize((32, 32)), (16, 16))
        for step in (1, 2):
            preview = preview_jpeg(image)
            await self._queue.claims.progress(claim, stage="denoise", step=step, steps=2, preview=preview)
            if (await self._queue.claims.heartbeat([claim]))[spec.id] == "canceled":
                await self._queue.claims.finish(claim, status="canceled")
                return
            await asyncio.sleep(0.05)
        blob = await self._blobs.put(
            encode_result(image, spec.output_format, spec.quality),
            kind="result",
            content_type=f"image/{spec.output_format}",
        )
        result = JobResult(
            blob=blob,
            content_type=f"image/{spec.output_format}",
            width=image.width,
            height=image.height,
            model=INFO.model,
            nfe=2,
            stages={"denoise": 0.1},
        )
        await self._queue.claims.finish(claim, status="succeeded", result=result)


class Live:
    """The running service of one test module; `url` is where it answers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = ""
        self.worker: PlainWorker
        self.queue: JobQueue
        self.blobs: BlobStore
        self.app: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> Live:
        self._thread.start()
        if not self._ready.wait(20) or self._failure:
            raise RuntimeError(f"the gateway did not start: {self._failure}")
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        if self._failure is not None:
            raise self._failure

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the service's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def opened(self, job_id: str) -> JobRecord:
        """The record of a job with its words, as a worker reads it."""

        async def opened() -> JobRecord:
            record = await self.queue.owner.get(job_id)
            assert record is not None
            opened: JobRecord = await self.app.state.gateway.tryons.words.open_record(record)
            return opened

        return self.call(opened())

    def hold(self) -> None:
        """No job is claimed until `resume`; what is in flight ends first."""
        patience = time.monotonic() + 20
        while self.call(self.queue.upkeep.backlog()).in_flight and time.monotonic() < patience:
            time.sleep(0.05)
        self._loop.call_soon_threadsafe(self.worker.open.clear)
        self.call(self.worker.parked.wait())

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self.worker.open.set)

    def running(self) -> int:
        """Requests being served now."""
        return len(self._server.server_state.tasks)

    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._server.server_state.connections)

    def client(self, **options: Any) -> httpx.Client:
        """A client without TLS set-up, which would cost more than most requests here."""
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._server = server(self.settings)
        self.app = self._server.config.app
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            if serving.done():
                await serving
                raise RuntimeError("uvicorn ended at once")
            await asyncio.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.queue = await JobQueue.connect(self.settings)
        self.blobs = BlobStore.open(self.settings)
        self.worker = PlainWorker(self.queue, self.blobs)
        working = asyncio.create_task(self.worker.run())
        await self.queue.workers.announce(INFO, 30)
        self._ready.set()
        try:
            await serving
        finally:
            working.cancel()
            (ended,) = await asyncio.gather(working, return_exceptions=True)
            await self.queue.close()
        if not isinstance(ended, asyncio.CancelledError):
            raise RuntimeError("the test worker ended") from ended


def settings_in(folder: Path, store_url: str, **overrides: Any) -> Settings:
    """Settings of a test service: its own folder, any free port, the given store."""
    values: dict[str, Any] = {"data_dir": folder, "port": 0, "redis_url": store_url, "rate_per_minute": 0}
    values["store_timeout_s"] = 5.0
    return Settings(**(values | overrides))
