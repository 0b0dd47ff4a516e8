"""One look at a running service: the store for queue and workers, the gateways' /metrics for what they refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.errors import StoreUnavailable
from service.jobs.queue import JobQueue
from service.jobs.schemas import Backlog, WorkerInfo

GATEWAY_PATIENCE_S = 3.0


@dataclass(frozen=True)
class Reading:
    """What was seen at `at` (Unix seconds); None is what nobody answered.

    `totals` are the store's counters by `name|label|label`, `refused` counts of all gateways by reason, `troubles` one
    line for each source that did not answer.
    """

    at: float
    backlog: Backlog | None = None
    workers: tuple[WorkerInfo, ...] | None = None
    totals: dict[str, int] | None = None
    refused: dict[str, int] | None = None
    troubles: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self.backlog is None and self.refused is None


@dataclass(frozen=True)
class Scrape:
    """What one gateway's /metrics says."""

    refused: Counter[str] = field(default_factory=Counter)
    totals: dict[str, int] = field(default_factory=dict)
    backlog: Backlog | None = None


class Watcher:
    """Reads a service again and again; `queue` is None when no store is known."""

    def __init__(self, urls: Sequence[str], queue: JobQueue | None, store_name: str = "the store") -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._queue = queue
        self._store_name = store_name
        self._client = httpx.AsyncClient(timeout=GATEWAY_PATIENCE_S, trust_env=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        if self._queue is not None:
            await self._queue.close()

    async def read(self) -> Reading:
        """One reading; sources that do not answer become troubles, never errors."""
        at = time.time()
        stored, *scraped = await asyncio.gather(self._store(), *map(self._gateway, self._urls))
        scrapes = [found for found in scraped if isinstance(found, Scrape)]
        troubles = tuple(found for found in (stored, *scraped) if isinstance(found, str))
        refused = dict(sum((scrape.refused for scrape in scrapes), Counter())) if scrapes else None
        if isinstance(stored, tuple):
            backlog, workers, totals = stored
            return Reading(at, backlog, workers, totals, refused, troubles)
        if scrapes:
            return Reading(at, scrapes[0].backlog, None, scrapes[0].totals, refused, troubles)
        return Reading(at, troubles=troubles)

    async def _store(self) -> tuple[Backlog, tuple[WorkerInfo, ...], dict[str, int]] | str | None:
        if self._queue is None:
            return None
        try:
            backlog = await self._queue.upkeep.backlog()
            return backlog, tuple(await self._queue.workers.ready()), await self._queue.upkeep.totals()
        except StoreUnavailable:
            return f"{self._store_name} does not answer"

    async def _gateway(self, url: str) -> Scrape | str:
        try:
            answer = await self._client.get(f"{url}/metrics")
        except httpx.HTTPError:
            return f"no gateway answers at {url}"
        if answer.status_code != 200:
            return f"the gateway at {url} answers {answer.status_code} to /metrics: its store does not answer"
        return scrape(answer.text)


def scrape(text: str) -> Scrape:
    """The metrics of a gateway, from the Prometheus text format."""
    values: dict[str, float] = {}
    refused: Counter[str] = Counter()
    totals: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sample.labels.values())
            if sample.name == metrics.ADMISSION_REJECTED:
                refused[labels[0]] += int(sample.value)
            elif sample.name in _TOTALS:
                by = [sample.labels[label] for label in _TOTALS[sample.name][1]]
                totals["|".join((_TOTALS[sample.name][0], *by))] = int(sample.value)
            elif not labels:
                values[sample.name] = sample.value
    backlog = Backlog(
        waiting=int(values.get(metrics.REQUESTS_WAITING, 0)),
        running=int(values.get(metrics.REQUESTS_RUNNING, 0)),
        in_flight=int(values.get(metrics.REQUESTS_WAITING, 0) + values.get(metrics.REQUESTS_RUNNING, 0)),
        seconds=values.get(metrics.BACKLOG, 0.0),
    )
    return Scrape(refused, totals, backlog)


# Names of the store's totals (queue.lua) and the labels that follow, by metric.
_TOTALS: dict[str, tuple[str, tuple[str, ...]]] = {
    metrics.REQUESTS_TOTAL: ("requests", ("status", "reason")),
    metrics.CANCELED: ("canceled", ("phase",)),
    metrics.DEAD_LETTER: ("dead_letter", ("reason",)),
    metrics.DEADLINE_EXCEEDED: ("deadline_exceeded", ()),
    metrics.LEASE_LOST: ("lease_lost", ()),
}
