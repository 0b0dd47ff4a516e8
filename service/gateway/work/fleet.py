"""What the ready workers announce, read at most twice a second: models, bounds of a size, token estimates."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from service.errors import StoreUnavailable, UnprocessableRequest
from service.jobs.queue import JobQueue
from service.jobs.schemas import WorkerInfo

FRESH_S = 0.5
KNOWN_S = 5.0
MAX_PIXELS = 2048 * 2048
DEFAULT_SIZE = (768, 1024)
MIN_TOKENS = 4  # a side, as the engine has it
SIZE_MULTIPLE = 16
MAX_STEPS = 50
GARMENT_PIXELS = 512 * 512
TEXT_TOKENS = 512
PIXELS_A_TOKEN = 16 * 16


class Fleet:
    """The announced workers; an empty fleet is not an error, because an accepted job waits for one."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._workers: list[WorkerInfo] = []
        self._read = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def workers(self) -> list[WorkerInfo]:
        """The ready workers. Raises StoreUnavailable."""
        now = time.monotonic()
        if now - self._read >= FRESH_S:
            self._workers = await self._queue.workers.ready()
            self._read = now
        return self._workers

    async def _known(self) -> list[WorkerInfo]:
        """The workers as of at most KNOWN_S ago, so that taking a request in waits for the store in one place only."""
        age = time.monotonic() - self._read
        if self._read and age < KNOWN_S:
            if age >= FRESH_S and (self._reading is None or self._reading.done()):
                self._reading = asyncio.create_task(self._read_again())
            return self._workers
        return await self.workers()

    async def _read_again(self) -> None:
        with suppress(StoreUnavailable):
            await self.workers()

    async def check(self, size: tuple[int, int] | None, steps: int | None) -> None:
        """Raises UnprocessableRequest when no announced worker could make such a picture."""
        workers = await self._known()
        multiple = min((w.size_multiple for w in workers), default=SIZE_MULTIPLE)
        pixels = max((w.max_pixels for w in workers), default=MAX_PIXELS)
        most_steps = max((w.max_steps for w in workers), default=MAX_STEPS)
        if size is not None:
            width, height = size
            least = MIN_TOKENS * multiple
            if width % multiple or height % multiple or min(size) < least or width * height > pixels:
                example = workers[0].default_size if workers else DEFAULT_SIZE
                raise UnprocessableRequest(
                    f"size: both sides must be multiples of {multiple} and at least {least}, width times height "
                    f"at most {pixels}, such as {example[0]}x{example[1]}.",
                    code="unsupported-size",
                    pointer="size",
                )
        if steps is not None and steps > most_steps:
            raise UnprocessableRequest(f"steps: at most {most_steps} here.", code="unsupported-steps", pointer="steps")

    async def tokens(self, size: tuple[int, int] | None, garments: int) -> int:
        """The packed length of a request, for admission: text, target, person and garments."""
        workers = await self._known()
        width, height = size or (workers[0].default_size if workers else DEFAULT_SIZE)
        target = width * height // PIXELS_A_TOKEN
        garment = min(GARMENT_PIXELS, width * height) // PIXELS_A_TOKEN
        return TEXT_TOKENS + 2 * target + garments * garment
