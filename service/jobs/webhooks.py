"""Webhooks that are due: each is one caller's for a while, then somebody else's, until it is settled."""

from __future__ import annotations

import time

from service.jobs import store_keys
from service.jobs.store import Store


class DueWebhooks:
    """Ended jobs whose receiver has not heard of it yet."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def due(self, *, limit: int, hold_s: float) -> list[tuple[str, int]]:
        """Ids of ended jobs whose webhook is due, with the number of this try from 1.

        They are this caller's for `hold_s`; `settle` says what came of each.
        """
        due = await self._store.script("webhooks_due", limit, int(hold_s * 1000), repeat=False)
        return [(job_id, int(tries)) for job_id, tries in due]

    async def settle(self, job_id: str, *, retry_in_s: float | None = None) -> None:
        """The webhook of a job is done with, or is tried again after `retry_in_s`."""
        client = self._store.client
        if retry_in_s is None:
            await self._store.call(lambda: client.zrem(store_keys.WEBHOOKS, job_id))
        else:
            due = int((time.time() + retry_in_s) * 1000)
            await self._store.call(lambda: client.zadd(store_keys.WEBHOOKS, {job_id: due}, xx=True))
