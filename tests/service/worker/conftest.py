"""A real store and a real blob folder, and jobs put there as the gateway would."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from step_engine import PERSON

from service.jobs.blobs import BlobStore
from service.jobs.embedded import EmbeddedServer, start_server
from service.jobs.queue import JobQueue
from service.jobs.schemas import GarmentRef, JobSpec, Limits, Reserved
from service.jobs.words import Words, sealed
from service.settings import Settings, load_settings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    running = start_server(tmp_path_factory.mktemp("store"))
    yield running
    running.stop()


@pytest.fixture
def settings(server: EmbeddedServer, tmp_path: Path) -> Settings:
    return load_settings(
        redis_url=server.url,
        data_dir=tmp_path,
        lease_s=2,
        sweep_s=0.2,
        drain_grace_s=8,
        store_timeout_s=5,  # a busy machine is not an outage
    )


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[JobQueue]:
    connected = await JobQueue.connect(settings)
    await connected.store.client.flushall()
    yield connected
    await connected.close()


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return BlobStore.open(settings)


Submit = Callable[..., Any]


@pytest.fixture
def submit(queue: JobQueue, blobs: BlobStore) -> Submit:
    """Put a job in the queue as the gateway would; keyword arguments go into its JobSpec. Returns its id."""

    async def put(**said: Any) -> str:
        out = io.BytesIO()
        PERSON.save(out, "PNG")
        reserved = await queue.submission.reserve(
            tenant="t", idempotency_key=None, body_digest="d",
            limits=Limits(concurrency=0, rate_per_minute=0, daily_quota=0),
        )  # fmt: skip
        assert isinstance(reserved, Reserved)
        key = await blobs.put(out.getvalue(), kind="input", content_type="image/png")
        now = time.time()
        given = {
            "id": reserved.id, "tenant": "t", "person": key,
            "garments": (GarmentRef(blob=key, category="tops"),),
            "instruction": "wear it", "instruction_by": "grammar", "seed": 1, "created_at": now,
            "deadline_at": now + 60, "tokens": 1, "output_format": "png",
        }  # fmt: skip
        words = await Words(blobs).new_key()
        await queue.submission.submit(reserved, sealed(JobSpec(**(given | said)), words))
        return reserved.id

    return put
