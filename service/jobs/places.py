"""Looks after all jobs that are followed here, in one round a second: whose place or state is new, its followers wake.

A notice of the store (`owner.Notices`) comes at once but may be lost, and none is given when a job only moves up in the
line. A timer and a question to the store for each follower would cost more than the work they wait for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from service.errors import StoreUnavailable
from service.jobs.store import Store

log = logging.getLogger(__name__)

ROUND_S = 1.0
JOBS_A_CALL = 256


@dataclass
class _Watched:
    """A followed job: what was last known of it, and whom to wake when that changes."""

    word: str | None = None
    wakes: set[asyncio.Event] = field(default_factory=set)


class Places:
    """Wakes followers of jobs. The rounds begin with the first follower and end with the last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watched: dict[str, _Watched] = {}
        self._rounds: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self, job_id: str, wake: asyncio.Event) -> AsyncIterator[None]:
        """Set `wake` within a round of any change of the job, and once at the beginning."""
        watched = self._watched.setdefault(job_id, _Watched())
        watched.wakes.add(wake)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round(), name="places")
        try:
            yield
        finally:
            watched.wakes.discard(wake)
            if not watched.wakes:
                del self._watched[job_id]

    async def close(self) -> None:
        """End the rounds."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait({self._rounds})

    async def _go_round(self) -> None:
        await asyncio.sleep(ROUND_S)
        while self._watched:
            jobs = list(self._watched)
            for start in range(0, len(jobs), JOBS_A_CALL):
                await self._look(jobs[start : start + JOBS_A_CALL])
            await asyncio.sleep(ROUND_S)

    async def _look(self, jobs: list[str]) -> None:
        """Those of a store that does not answer wake too: they find that out themselves."""
        try:
            words: list[str | None] = await self._store.script("places", *jobs)
        except (StoreUnavailable, RedisError) as error:
            log.warning("no round of places", extra={"cause": type(error).__name__})
            words = [None] * len(jobs)
        for job, word in zip(jobs, words, strict=True):
            watched = self._watched.get(job)
            if watched is not None and (word is None or word != watched.word):
                watched.word = word
                for wake in watched.wakes:
                    wake.set()
