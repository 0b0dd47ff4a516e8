"""What time asks for, done by every gateway: one is enough, more do no harm; and the gauges and totals of the store.

Workers sweep too; but with every worker gone, deadlines must still fire and pictures still be erased. Totals count
in the atomic step that makes a job terminal, which keeps the metrics equal to what clients saw, whatever process dies
when.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Mapping

from redis.exceptions import ResponseError

from service.errors import StoreUnavailable
from service.jobs import store_keys
from service.jobs.blobs import BlobStore
from service.jobs.catalogue import Catalogue
from service.jobs.schemas import Backlog, SweepReport
from service.jobs.store import Store
from service.jobs.words import Words
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)

ERASE_EVERY_S = 60.0
DEADLINE_GRACE_S = 2.5


async def keep_house(upkeep: Upkeep, blobs: BlobStore, words: Words) -> None:
    """Sweep jobs every `sweep_s`, and what has run out (pictures, keys, the store's log of deleted things) every minute
    at the latest, until canceled; outages are waited out.
    """
    erase_at = 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            report = await upkeep.sweep()
            for what in ("requeued", "failed", "expired", "canceled"):
                for job_id in getattr(report, what):
                    log.info("swept", extra={"job_id": job_id, "outcome": what})
            if loop.time() >= erase_at:
                erase_at = loop.time() + upkeep.erase_every_s
                words.drop_old()
                erased = await blobs.sweep_expired() + await upkeep.catalogue.sweep(blobs)
                if erased:
                    log.info("expired pictures erased", extra={"count": erased})
                await upkeep.rewrite_log()
        except StoreUnavailable as error:
            log.warning("upkeep waits", extra={"cause": error.detail})
        await asyncio.sleep(upkeep.every_s * random.uniform(0.75, 1.25))


class Upkeep:
    """Sweeps, and what the store counts; `every_s` is the time between two sweeps of one process."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._totals = TotalsCopy()
        self.catalogue = Catalogue(store, settings.garment_ttl_s)

    @property
    def every_s(self) -> float:
        return self._settings.sweep_s

    @property
    def erase_every_s(self) -> float:
        """A minute, or less where pictures are kept for less than that."""
        return min(ERASE_EVERY_S, self._settings.input_ttl_s, self._settings.result_ttl_s)

    async def rewrite_log(self) -> bool:
        """Have the store rewrite its append-only log, every `log_rewrite_s` by one process of all: what was deleted
        leaves the disk. Answers whether it was asked to; a store without such a log, or that refuses, is left alone.
        """
        every_s, client = self._settings.log_rewrite_s, self._store.client
        if every_s == 0:
            return False

        async def due() -> bool:
            if not await client.set(store_keys.REWRITTEN, "1", ex=every_s, nx=True):
                return False
            return bool((await client.info("persistence")).get("aof_enabled"))

        try:
            if not await self._store.call(due, repeat=False):
                return False
            await self._store.call(client.bgrewriteaof, repeat=False)
        except ResponseError as error:
            log.warning("the store does not rewrite its log for us", extra={"reason": str(error)[:200]})
            return False
        return True

    async def sweep(self) -> SweepReport:
        """Do what time asks for: requeue or give up lost leases, expire deadlines, drop stale
        reservations.
        """
        answer = await self._store.script(
            "sweep", self._settings.max_attempts, self._settings.result_ttl_s, int(DEADLINE_GRACE_S * 1000)
        )
        return SweepReport.model_validate({name: ids or () for name, ids in json.loads(answer).items()})

    async def backlog(self) -> Backlog:
        """How much waits and runs, and how long the waiting part will take."""
        waiting, running, in_flight, seconds = await self._store.script("backlog")
        return Backlog(waiting=waiting, running=running, in_flight=in_flight, seconds=float(seconds))

    async def totals(self) -> dict[str, int]:
        """Counters of every terminal transition since the store began, by `name|label|label`."""
        counted = await self._store.call(lambda: self._store.client.hgetall(store_keys.TOTALS))
        return {name: int(value) for name, value in counted.items()}

    async def observe(self, metrics: Metrics) -> None:
        """Copy the store's gauges and totals into `metrics`, before a scrape.

        The totals are exact under any crash, and the same from every gateway: aggregate them with max,
        not sum.
        """
        backlog = await self.backlog()
        metrics.requests_waiting.set(backlog.waiting)
        metrics.requests_running.set(backlog.running)
        metrics.backlog_seconds.set(backlog.seconds)
        self._totals.copy(await self.totals(), metrics)


class TotalsCopy:
    """Remembers what was copied, so that each copy adds only what is new."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def copy(self, totals: Mapping[str, int], metrics: Metrics) -> None:
        """Add the growth since the last copy; names are `name|label|label` as in `queue.lua`.

        A store that was emptied starts again from zero.
        """
        for name, value in totals.items():
            seen = self._seen.get(name, 0)
            grown = value - seen if value >= seen else value
            self._seen[name] = value
            if grown:
                _add(metrics, name, grown)
        for name in set(self._seen) - set(totals):
            del self._seen[name]


def _add(metrics: Metrics, name: str, grown: int) -> None:
    match name.split("|"):
        case ["requests", status, reason]:
            metrics.requests.labels(status, reason).inc(grown)
        case ["canceled", phase]:
            metrics.canceled.labels(phase).inc(grown)
        case ["dead_letter", reason]:
            metrics.dead_letter.labels(reason).inc(grown)
        case ["deadline_exceeded"]:
            metrics.deadline_exceeded.inc(grown)
        case ["lease_lost"]:
            metrics.lease_lost.inc(grown)
        case _:
            raise ValueError(f"unknown total {name!r}")
