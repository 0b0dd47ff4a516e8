"""What a worker is told while it works: cancellations for its leases, erasures for its engine's memory.

An engine keeps latents, and keys and values, of the pictures it has seen. `DELETE` erases at once, so these go too; the
rest goes when the pictures themselves have run out. Forgetting costs a look at each kept key, and no store call.
"""

from __future__ import annotations

import asyncio
import logging

from engine_build.engine import Engine
from service.errors import StoreUnavailable
from service.jobs.schemas import Canceled, Erased
from service.jobs.workers import WorkerNews
from service.worker.leases import Leases

log = logging.getLogger(__name__)

STORE_AWAY_S = 1.0
STILL_HELD_S = 0.25
TIDY_EVERY_S = 60.0


class Cancellations:
    """Belongs to the event loop; `input_ttl_s` is how long pictures of try-ons are kept at all."""

    def __init__(self, news: WorkerNews, leases: Leases, engine: Engine, input_ttl_s: float) -> None:
        self._news = news
        self._leases = leases
        self._engine = engine
        self._input_ttl_s = input_ttl_s
        self._later: set[asyncio.Task[None]] = set()

    async def listen_forever(self) -> None:
        while True:
            try:
                async for what in self._news.follow():
                    if isinstance(what, Canceled):
                        self._leases.cancel(what.job_id)
                    else:
                        self._forget(what)
            except StoreUnavailable:
                await asyncio.sleep(STORE_AWAY_S)

    async def tidy_forever(self) -> None:
        """Forget what is older than any picture of a try-on may be."""
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            self._engine.forget(older_than_s=self._input_ttl_s)

    def _forget(self, erased: Erased) -> None:
        self._engine.forget(erased.content, words=erased.words)
        log.info("erased pictures forgotten", extra={"job_id": erased.job_id})
        if self._leases.holds(erased.job_id):
            task = asyncio.create_task(self._forget_again(erased))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    async def _forget_again(self, erased: Erased) -> None:
        """The job still runs and may leave something behind; it has been told to stop."""
        while self._leases.holds(erased.job_id):  # noqa: ASYNC110 (rare, and over within a step)
            await asyncio.sleep(STILL_HELD_S)
        self._engine.forget(erased.content, words=erased.words)
