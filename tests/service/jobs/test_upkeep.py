"""Upkeep: with no worker and no traffic at all, deadlines fire, inputs go, and an outage is waited out."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from queue_hand import Hand

from service.jobs.embedded import EmbeddedServer, start_server
from service.jobs.queue import JobQueue
from service.jobs.storage import BlobStore
from service.jobs.upkeep import keep_house
from service.settings import load_settings


async def test_jobs_and_pictures_end_without_any_worker(own_server: EmbeddedServer, tmp_path: Path) -> None:
    settings = load_settings(redis_url=own_server.url, data_dir=tmp_path, sweep_s=0.1, input_ttl_s=1)
    queue, blobs = await JobQueue.connect(settings), BlobStore.open(settings)
    hand = Hand(queue)
    key = await blobs.put(b"picture", kind="input", content_type="image/png")
    stored = tmp_path / "blobs" / key
    assert stored.is_file()
    blobs._clock = lambda: time.time() + 2
    own_server.kill()
    upkeep = asyncio.create_task(keep_house(queue, blobs))
    await asyncio.sleep(0.4)
    again = start_server(tmp_path / "own")
    try:
        job_id = await hand.post(deadline_s=0.2)
        await asyncio.sleep(1)
        assert await hand.status(job_id) == "expired"
        assert not stored.exists()
        assert not upkeep.done()
    finally:
        upkeep.cancel()
        with suppress(asyncio.CancelledError):
            await upkeep
        await queue.close()
        again.kill()
