"""What time asks for, done by every gateway: one is enough, more do no harm.

Workers sweep too; but with every worker gone, deadlines must still fire and pictures still be erased.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.errors import StoreUnavailable
from service.jobs.blobs import BlobStore
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.jobs.queue import JobQueue

log = logging.getLogger(__name__)

ERASE_EVERY_S = 60.0


async def keep_house(queue: JobQueue, blobs: BlobStore) -> None:
    """Sweep jobs every `sweep_s` and expired pictures every minute, until canceled; outages are waited out."""
    erase_at = 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            report = await queue.sweep()
            for what in ("requeued", "failed", "expired", "canceled"):
                for job_id in getattr(report, what):
                    log.info("swept", extra={"job_id": job_id, "outcome": what})
            if loop.time() >= erase_at:
                erase_at = loop.time() + ERASE_EVERY_S
                erased = await blobs.sweep_expired()
                if erased:
                    log.info("expired pictures erased", extra={"count": erased})
        except StoreUnavailable as error:
            log.warning("upkeep waits", extra={"cause": error.detail})
        await asyncio.sleep(queue.settings.sweep_s * random.uniform(0.75, 1.25))


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
