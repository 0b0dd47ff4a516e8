"""From a claim to what the engine runs: its pictures fetched and opened, its tokens counted.

Pictures are waited for as long as the picture store as a whole is away. A single picture that cannot be read while
the store answers fails its attempt soon: it may be readable from another machine, and else the job ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine_build.engine import Engine
from service.errors import StoreUnavailable
from service.jobs.schemas import Claim
from service.telemetry import span
from service.worker.batching import Prepared, request_tokens
from service.worker.photos import Photos

STORE_AWAY_PATIENCE_S = 60.0
ONE_PICTURE_PATIENCE_S = 2.0
RETRY_S = 0.25


@dataclass(frozen=True)
class Fetched:
    """A claimed job and its stored pictures; `started` is when fetching them began (perf_counter)."""

    claim: Claim
    pictures: list[bytes]
    started: float


class Preparing:
    """Fetches, then prepares, claims one by one; `may_wait` says whether a job is still worth waiting for."""

    def __init__(self, engine: Engine, photos: Photos, may_wait: Callable[[Claim], bool]) -> None:
        self._engine = engine
        self._photos = photos
        self._may_wait = may_wait

    async def fetched(self, claim: Claim) -> Fetched:
        """Raises Gone, and StoreUnavailable once patience ends."""
        started = time.perf_counter()
        with span("try_on.fetch", parent=claim.spec.traceparent):
            return Fetched(claim, await self._pictures(claim), started)

    async def prepared(self, fetched: Fetched) -> Prepared:
        """Raises InvalidRequest and EngineError."""
        claim = fetched.claim
        with span("try_on.prepare", parent=claim.spec.traceparent):
            request = await self._photos.request(claim.spec, fetched.pictures)
            tokens = request_tokens(self._engine, request)
        return Prepared(claim, request, tokens, time.perf_counter() - fetched.started)

    async def store_answers(self) -> bool:
        """Whether it makes sense to claim more while some jobs wait for their pictures."""
        return await self._photos.reachable()

    async def _pictures(self, claim: Claim) -> list[bytes]:
        give_up_at = time.monotonic() + STORE_AWAY_PATIENCE_S
        alone_since: float | None = None
        while True:
            try:
                return await self._photos.fetch(claim.spec)
            except StoreUnavailable:
                now = time.monotonic()
                if now >= give_up_at or not self._may_wait(claim):
                    raise
                if not await self._photos.reachable():
                    alone_since = None
                elif alone_since is None:
                    alone_since = now
                elif now - alone_since >= ONE_PICTURE_PATIENCE_S:
                    raise
            await asyncio.sleep(RETRY_S)
