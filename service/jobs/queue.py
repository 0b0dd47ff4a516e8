"""The queue: one connection to the store, and the parts that speak through it.

    submission  a gateway takes a request in, or refuses it
    owner       the caller of a job asks how it stands, follows it, stops or erases it
    claims      workers take jobs under leases, report and end them
    workers     workers announce themselves and hear news
    webhooks    ended jobs whose receiver is to hear of it
    upkeep      what time asks for, and what is counted

Every change of state is one atomic Lua step (the schema is on top of `scripts/queue.lua`), so any process may die
between any two calls. All methods raise StoreUnavailable within a second when the store does not answer.
"""

from __future__ import annotations

from redis.asyncio import Redis

from service.jobs.claims import Claims
from service.jobs.owner import Owner
from service.jobs.store import Store, open_client
from service.jobs.submission import Submission
from service.jobs.upkeep import Upkeep
from service.jobs.webhooks import DueWebhooks
from service.jobs.workers import Workers
from service.metrics import Metrics
from service.settings import Settings


class JobQueue:
    """All operations on jobs, by part; one instance a process, on one event loop.

    With `metrics`, the parts count what they cause or see: refusals, queue time, latency.
    """

    def __init__(self, client: Redis, settings: Settings, metrics: Metrics | None = None) -> None:
        self.store = Store(client, settings.store_timeout_s)
        self.settings = settings
        self.metrics = metrics
        self.submission = Submission(self.store, settings, metrics)
        self.owner = Owner(self.store, settings)
        self.claims = Claims(self.store, settings, metrics)
        self.workers = Workers(self.store)
        self.webhooks = DueWebhooks(self.store)
        self.upkeep = Upkeep(self.store, settings)

    @classmethod
    async def connect(cls, settings: Settings, metrics: Metrics | None = None) -> JobQueue:
        """A queue on `settings.redis_url`. Connections open lazily: a store that is down is no error yet."""
        return cls(open_client(settings.redis_url, settings.store_timeout_s), settings, metrics)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        await self.owner.event_log.close()
        await self.store.close()

    async def ping(self) -> None:
        """Raises StoreUnavailable when the store does not answer."""
        await self.store.call(self.store.client.ping)
