"""A queue on the real store with short times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from prometheus_client import CollectorRegistry
from queue_hand import Hand

from service.jobs.queue import JobQueue
from service.metrics import Metrics
from service.settings import Settings, load_settings

hypothesis_settings.register_profile("fuzz", max_examples=500)
pytest.register_assert_rewrite("queue_books", "queue_model")


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    """Short leases; a store that is slow because the machine is busy is waited for."""
    return load_settings(
        redis_url=store_url, data_dir=tmp_path, lease_s=1.0, max_in_flight=200, max_backlog_s=0, store_timeout_s=30
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def queue(settings: Settings, metrics: Metrics) -> AsyncIterator[JobQueue]:
    queue = await JobQueue.connect(settings, metrics)
    yield queue
    await queue.close()


@pytest.fixture
def hand(queue: JobQueue) -> Hand:
    return Hand(queue)
