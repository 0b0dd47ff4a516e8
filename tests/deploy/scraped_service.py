"""A running service under load with a real Prometheus scraping it, on loopback.

The store, a gateway, workers with `nano` and Debian's `prometheus`, with the deployed configuration and rules: only
the addresses differ, and the intervals are short.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import yaml

from loadtests.bench.local_service import free_port
from service.jobs.embedded import start_server
from service.jobs.queue import JobQueue
from service.jobs.schemas import JobError
from service.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
SAMPLES = Path(str(files("service.gateway") / "studio" / "samples"))
CATEGORIES = ("tops", "pants", "coats", "shoes", "bags", "hats")
PROMPTS = ("", "keep the coat open", "tuck the top in")
PATIENCE_S = 180.0
BROKEN_SKU = "broken"


@dataclass(frozen=True)
class Scraped:
    """Addresses of a running service."""

    gateway: str
    prometheus: str
    redis_url: str
    blobs: Path


def configuration(folder: Path, targets: dict[str, list[str]], every_s: int) -> Path:
    """The deployed Prometheus configuration and rules, every few seconds, with `targets` by job name."""
    every = f"{every_s}s"
    rules = re.sub(r"(?m)^( +interval: ).*$", rf"\g<1>{every}", (DEPLOY / "prometheus" / "rules.yaml").read_text())
    (folder / "rules.yaml").write_text(rules)
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def process(log: Path, *words: str) -> Iterator[None]:
    with log.open("wb") as out:
        running = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def answers(url: str, logs: Path) -> None:
    """Wait for a 200. Raises RuntimeError with the ends of the logs when none comes."""
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    tails = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs.glob("*.log"))
    raise RuntimeError(f"{url} did not answer\n{tails}")


async def dead_letter(url: str, redis_url: str) -> None:
    """A try-on that is given up: claimed as by a worker whose engine fails at every attempt."""
    names = {"person": "person-1.png", "garment": "tops-1.png"}
    pictures = {part: (SAMPLES / name).read_bytes() for part, name in names.items()}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        (await client.post("/v1/try-ons", files=pictures)).raise_for_status()
    queue = await JobQueue.connect(load_settings(redis_url=redis_url, store_timeout_s=5))
    settled = ""
    while settled != "failed":
        for claim in await queue.claims.claim("failing", max_jobs=1, token_budget=1 << 40, block_s=2):
            failure = JobError(code="engine-failed", message="The engine failed.")
            settled = await queue.claims.fail_attempt(claim, failure)
    await queue.close()


@contextmanager
def scraped_service(
    folder: Path, *, model: str = "nano", workers: int = 1, max_in_flight: int = 6, scrape_s: int = 1
) -> Iterator[Scraped]:
    """The service and its Prometheus, ready; everything ends with the block."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        raise RuntimeError("prometheus is missing (Debian: apt install prometheus)")
    gateway, watcher = free_port(), free_port()
    ports = [free_port() for _ in range(workers)]
    data = folder / "data"
    targets = {
        "changeroom-gateway": [f"127.0.0.1:{gateway}"],
        "changeroom-worker": [f"127.0.0.1:{port}" for port in ports],
    }
    config = configuration(folder, targets, scrape_s)
    with ExitStack() as stack:
        store = start_server(data)
        stack.callback(store.stop)
        command = [sys.executable, "-m", "service.cli"]
        common = ["--data", str(data), "--redis-url", store.url]
        for setting in (f"max_in_flight={max_in_flight}", "rate_per_minute=0", "store_timeout_s=5"):
            common += ["--set", setting]
        stack.enter_context(
            process(folder / "gateway.log", *command, "gateway", *common, "--port", str(gateway))
        )
        found = Scraped(f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{watcher}", store.url, data / "blobs")
        answers(f"{found.gateway}/livez", folder)
        asyncio.run(dead_letter(found.gateway, store.url))
        for index, port in enumerate(ports):
            own = ["--model", model, "--device", "cpu", "--metrics-port", str(port)]
            own += ["--set", "reference_cache_bytes=3000000", "--set", "drain_grace_s=6", "--set", f"workers={workers}"]
            stack.enter_context(process(folder / f"worker-{index}.log", *command, "worker", *common, *own))
        stack.enter_context(
            process(
                folder / "prometheus.log",
                prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'metrics'}",
                f"--web.listen-address=127.0.0.1:{watcher}",
                "--log.level=warn",
            )
        )
        answers(f"{found.gateway}/readyz", folder)
        answers(f"{found.prometheus}/-/ready", folder)
        yield found


class Visitors:
    """Open-loop load: people with 1 to 6 garments, a few who cancel, who are in a hurry, or have a broken garment."""

    def __init__(self, service: Scraped, rate: Callable[[float], float], seed: int = 1) -> None:
        self._service = service
        self._rate = rate
        self._draw = random.Random(seed)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(24)
        self._thread = threading.Thread(target=self._arrive, daemon=True)
        self._client = httpx.Client(base_url=service.gateway, timeout=60, trust_env=False)
        self.statuses: dict[int, int] = {}
        self.surprises: list[BaseException] = []

    def __enter__(self) -> Visitors:
        self._break_a_garment()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._pool.shutdown(cancel_futures=True)
        self._client.close()
        if self.surprises:
            raise self.surprises[0]

    def _break_a_garment(self) -> None:
        """A catalogue garment whose picture is gone afterwards: try-ons with it fail."""
        before = set(self._service.blobs.rglob("*"))
        picture = (SAMPLES / "tops-1.png").read_bytes()
        self._client.put(f"/v1/garments/{BROKEN_SKU}", files={"image": picture}).raise_for_status()
        (blob,) = (path for path in set(self._service.blobs.rglob("*")) - before if path.is_file())
        blob.unlink()

    def _arrive(self) -> None:
        started = due = time.monotonic()
        while True:
            due += self._draw.expovariate(max(0.05, self._rate(due - started)))
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._pool.submit(self._visit, self._draw.random(), self._draw.choice((1, 1, 1, 2, 2, 3, 4, 6)))

    def _visit(self, mood: float, garments: int) -> None:
        try:
            answer = self._post(mood, garments)
            if answer.status_code == 202 and mood < 0.12:
                self._client.post(f"{answer.headers['location']}/cancel")
        except httpx.TransportError:
            return
        except BaseException as surprise:
            self.surprises.append(surprise)

    def _post(self, mood: float, garments: int) -> httpx.Response:
        person = f"person-{1 + int(mood * 1000) % 6}.png"
        parts: list[tuple[str, tuple[str, bytes] | str]] = [("person", (person, (SAMPLES / person).read_bytes()))]
        chosen = [sorted(SAMPLES.glob(f"{category}-*.png")) for category in CATEGORIES[:garments]]
        pictures = [found[int(mood * 1000) % len(found)] for found in chosen]
        data = {"categories": ",".join(CATEGORIES[:garments]), "prompt": PROMPTS[int(mood * 100) % 3]}
        if mood > 0.96:
            data = {"skus": BROKEN_SKU}
        else:
            parts += [("garment", (path.name, path.read_bytes())) for path in pictures]
        headers = {"Cancel-After": "2"} if 0.9 < mood <= 0.96 else {}
        answer = self._client.post("/v1/try-ons", files=parts, data=data, headers=headers)
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        return answer
