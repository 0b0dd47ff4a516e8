"""Clients that leave while their answer is being made: where nobody else can ask for the job, it is canceled.

Such a job has no other reader: its id was never told, and no Idempotency-Key leads back to it. A worker's time goes to
those who wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import NotFound, StoreUnavailable
from service.jobs.queue import JobQueue

log = logging.getLogger("changeroom.gateway")

T = TypeVar("T")

CLOSED = 499  # nobody reads it; the log does


class ClientLeft(Exception):
    """The connection was closed before the answer."""


class Departures:
    """Notices that a client has left, and cancels what it left behind."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._under_way: set[asyncio.Task[None]] = set()

    async def unless_left(self, request: Request, answer: Coroutine[Any, Any, T]) -> T:
        """The answer, unless the client leaves before: then it is given up. Call it once the body has been read.

        Raises ClientLeft.
        """
        answering = asyncio.create_task(answer)
        leaving = asyncio.create_task(_left(request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ClientLeft
            return answering.result()
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.wait({answering, leaving})

    def abandon(self, job_id: str) -> None:
        """Have a job canceled whose only reader has left; one that has ended stays as it is."""
        task = asyncio.create_task(self._cancel(job_id))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _cancel(self, job_id: str) -> None:
        log.info("canceled: its client has left", extra={"job_id": job_id})
        with suppress(StoreUnavailable, NotFound):
            await self._queue.owner.cancel(job_id)

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
