"""Which workers are ready and what their engines are; and what workers must hear at once.

That is running jobs that were canceled, and pictures that were erased. Both are streams, so that a worker that lost the
store for a while goes on where it was. Erasures are kept ten minutes; who was away for longer is told to forget
everything.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from redis.asyncio import Redis

from service.jobs import store_keys
from service.jobs.schemas import Canceled, Erased, WorkerInfo
from service.jobs.store import Store

BLOCK_S = 5.0
KEPT_S = 590.0


class Workers:
    """The workers that are there: they announce themselves, anyone may ask for them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def announce(self, info: WorkerInfo, ttl_s: float) -> None:
        """Say that a worker is ready and what its engine is; forgotten after `ttl_s` without another call."""
        await self._store.script("announce", info.id, info.model_dump_json(), int(ttl_s * 1000))

    async def withdraw(self, worker_id: str) -> None:
        """Take an announcement back."""
        await self._store.script("announce", worker_id, "", 0)

    async def ready(self) -> list[WorkerInfo]:
        """The workers that are ready now."""
        return [WorkerInfo.model_validate_json(text) for text in await self._store.script("workers")]

    def news(self) -> WorkerNews:
        """What a worker must hear at once, from now on; it goes on where it was when the store was away."""
        return WorkerNews(self._store)


class WorkerNews:
    """One worker's reading of both streams, beginning when it is first followed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: dict[str, str] = {}
        self._heard_at = 0.0

    async def follow(self) -> AsyncIterator[Canceled | Erased]:
        """News as they come. Raises StoreUnavailable when the store goes; follow again and miss nothing."""
        if not self._last:
            self._last = {stream: await self._newest(stream) for stream in (store_keys.CANCELS, store_keys.ERASED)}
        elif time.monotonic() - self._heard_at > KEPT_S:
            yield Erased(content=None, words=True)
        while True:
            self._heard_at = time.monotonic()
            answer = await self._store.block(partial(_after, dict(self._last)), BLOCK_S)
            for stream, entries in answer or ():
                for entry, fields in entries:
                    self._last[stream] = entry
                    yield _read(stream, fields)

    async def _newest(self, stream: str) -> str:
        newest = await self._store.call(lambda: self._store.client.xrevrange(stream, count=1))
        return newest[0][0] if newest else "0-0"


async def _after(last: dict[Any, Any], client: Redis) -> Any:
    return await client.xread(last, block=int(BLOCK_S * 1000))


def _read(stream: str, fields: dict[str, str]) -> Canceled | Erased:
    if stream == store_keys.CANCELS:
        return Canceled(job_id=fields["job"])
    return Erased(job_id=fields["job"], content=frozenset(fields["content"].split()), words=fields["words"] == "1")
