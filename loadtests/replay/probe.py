"""What the service says of itself while it is under load: gauges and totals of its `/metrics`, every second or so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service import metrics as names

GAUGES = {
    names.REQUESTS_WAITING: "waiting",
    names.REQUESTS_RUNNING: "running",
    names.BACKLOG: "backlog_s",
    names.WORKER_READY: "ready",
}


@dataclass(frozen=True)
class ProbeReading:
    """The service `at` seconds after the start: gauges by short name, jobs ended by status, refusals by reason."""

    at: float
    gauges: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, float] = field(default_factory=dict)


def read(text: str, at: float) -> ProbeReading:
    """A reading from the Prometheus text format. Raises ValueError when it is something else."""
    reading = ProbeReading(at)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in GAUGES:
                short = GAUGES[sample.name]
                reading.gauges[short] = reading.gauges.get(short, 0.0) + sample.value
            elif sample.name == names.REQUESTS_TOTAL:
                status = sample.labels.get("status", "")
                reading.ended[status] = reading.ended.get(status, 0.0) + sample.value
            elif sample.name == names.ADMISSION_REJECTED:
                reason = sample.labels.get("reason", "")
                reading.rejected[reason] = reading.rejected.get(reason, 0.0) + sample.value
    return reading


def counted(readings: Sequence[ProbeReading]) -> dict[str, int]:
    """What the service counted between the first and the last reading: jobs ended by status, and `rejected`."""
    if len(readings) < 2:
        return {}
    first, last = readings[0], readings[-1]
    found = {status: int(total - first.ended.get(status, 0.0)) for status, total in last.ended.items()}
    found["rejected"] = int(sum(last.rejected.values()) - sum(first.rejected.values()))
    return {name: count for name, count in found.items() if count}


class Probe:
    """Reads `/metrics` before, during and after a run; what cannot be read is left out and counted in `missed`."""

    def __init__(self, url: str, every_s: float = 1.0) -> None:
        self._url = url
        self._every_s = every_s
        self.readings: list[ProbeReading] = []
        self.missed = 0

    async def once(self, start: float) -> None:
        """Read once; times count from `start` (time.perf_counter seconds)."""
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
            await self._read(http, start)

    async def run(self, start: float) -> None:
        """Read every `every_s` seconds until canceled."""
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
            while True:
                began = time.perf_counter()
                await self._read(http, start)
                await asyncio.sleep(max(0.0, began + self._every_s - time.perf_counter()))

    async def _read(self, http: httpx.AsyncClient, start: float) -> None:
        at = max(0.0, time.perf_counter() - start)
        try:
            answer = await http.get(self._url)
            answer.raise_for_status()
            self.readings.append(read(answer.text, at))
        except (httpx.HTTPError, ValueError):
            self.missed += 1
