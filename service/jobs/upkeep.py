"""What time asks for, done by every gateway: one is enough, more do no harm.

Workers sweep too; but with every worker gone, deadlines must still fire and pictures still be erased.
"""

from __future__ import annotations

import asyncio
import logging
import random

from service.errors import StoreUnavailable
from service.jobs.queue import JobQueue
from service.jobs.storage import BlobStore

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
