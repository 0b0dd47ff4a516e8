"""A whole service on this machine for a measurement: `changeroom up` on a free port, watched and ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtests.capacity.service_times import Scrape

START_PATIENCE_S = 180.0
PROGRAM = (sys.executable, "-m", "service.cli")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class NoService(RuntimeError):
    """The service did not start; the message carries what it said last."""


@dataclass(frozen=True)
class LocalService:
    """A running service: its address, the metrics addresses of its workers, and a key by tenant."""

    url: str
    workers: tuple[str, ...]
    keys: dict[str, str]

    async def scrape(self) -> Scrape:
        """What the workers' histograms say now. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            answers = await asyncio.gather(*(http.get(address) for address in self.workers))
        return Scrape.parse(*(answer.raise_for_status().text for answer in answers))


@asynccontextmanager
async def local_service(
    data: Path, model: str, *, workers: int = 2, tenants: Sequence[str] = (), settings: Sequence[str] = ()
) -> AsyncIterator[LocalService]:
    """`changeroom up` in `data` with `NAME=VALUE` settings, each worker on one thread; keys for `tenants`.

    Raises NoService.
    """
    port, first = free_port(), _free_ports(workers)
    keys: dict[str, str] = {}
    words = [*PROGRAM, "up", "--model", model, "--port", str(port), "--data", str(data)]
    words += ["--workers", str(workers), "--set", f"metrics_port={first}", "--set", "log_level=WARNING"]
    if tenants:
        file = data / "keys.json"
        keys = {tenant: await _new_key(tenant, file) for tenant in tenants}
        words += ["--set", f"api_keys_file={file}"]
    words += [word for setting in settings for word in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(
        *words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=dict(os.environ) | dict.fromkeys(ONE_THREAD, "1"),
    )
    said: list[str] = []
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            while not said or not said[-1].startswith("serving"):
                line = await process.stdout.readline() if process.stdout else b""
                if not line:
                    raise NoService("the service did not start: " + " ".join(said[-3:]))
                said.append(line.decode().strip())
        metrics = tuple(f"http://127.0.0.1:{first + index}/metrics" for index in range(workers))
        yield LocalService(f"http://127.0.0.1:{port}", metrics, keys)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _new_key(tenant: str, file: Path) -> str:
    """The key that `changeroom keys new` makes for `tenant` and writes into `file`. Raises NoService."""
    words = [*PROGRAM, "keys", "new", tenant, "--file", str(file)]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise NoService(f"no key for {tenant}: exit status {process.returncode}")
    return said.decode().strip()


def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
