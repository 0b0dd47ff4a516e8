"""A small fleet of real processes on loopback: a Valkey, gateways, workers, each of which a test may hurt.

The gateway and the workers are the production commands, kept by the supervisor of `changeroom up`; the store is
the embedded server. Nothing here talks to them but signals, the file system and the store's own port.
"""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import redis
from fault_proxy import Proxy
from redis.backoff import NoBackoff
from redis.retry import Retry

from loadtests.bench.local_service import free_port
from service.jobs import store_keys
from service.jobs.embedded import EmbeddedServer, start_server
from service.local.supervisor import Child

PATIENCE_S = 60.0
START_S = 300.0
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
PRODUCTION: dict[str, Any] = {"lease_s": 15.0, "sweep_s": 2.0, "drain_grace_s": 30.0}
QUICK: dict[str, Any] = {"lease_s": 4.0, "sweep_s": 0.5, "drain_grace_s": 30.0}


def until(done: Callable[[], Any], what: str, seconds: float = PATIENCE_S, every: float = 0.02) -> Any:
    """The first truthy answer of `done`, or TimeoutError naming `what`."""
    patience = time.monotonic() + seconds
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() >= patience:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


class Fleet:
    """Start with `start`; parts by name: `gateway`, `worker-0` and so on. `supervised` parts are restarted."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str = "null:8:0.1",
        proxied: bool = False,
        settings: Mapping[str, Any] | None = None,
        store_folder: Path | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.model = model
        self.settings = {**PRODUCTION, **(settings or {})}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.parts: dict[str, Child] = {}
        self.supervised: set[str] = set()
        self.store: EmbeddedServer
        self.proxies: dict[str, Proxy] = {}
        self._proxied = proxied
        self._store_folder = store_folder or folder
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._orders: list[str] = []
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    def start(self, workers: int = 1) -> Fleet:
        """Store, gateway and `workers` workers; returns once all are ready."""
        self.start_store()
        self.start_gateway(wait=False)
        for index in range(workers):
            self.start_worker(index, wait=False)
        self.await_gateway()
        for index in range(workers):
            self.await_ready(f"worker-{index}")
        return self

    def stop(self) -> None:
        """Everything ends, however it stands."""
        self.supervised.clear()
        for child in self.parts.values():
            self._resume(child.pid)
            child.kill()
        self._ended.set()
        self._supervisor.join(5)
        for proxy in self.proxies.values():
            proxy.close()
        if hasattr(self, "store"):
            self._resume(self.store.pid)
            self.store.kill()
            self._client.close()

    def start_store(self) -> None:
        self.store = start_server(self._store_folder)
        self._client = self._connect()
        if self._proxied:
            port = free_port()
            with self.redis() as client:
                client.config_set("port", str(port))
            for name in ("gateway", "worker"):
                if name not in self.proxies:
                    self.proxies[name] = Proxy()
                self.proxies[name].target = port

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """The test's own client, straight to the store."""
        yield self._client

    def _connect(self) -> redis.Redis:
        path = str(self.store.socket_path)
        return redis.Redis(unix_socket_path=path, decode_responses=True, socket_timeout=10, retry=Retry(NoBackoff(), 1))

    def start_gateway(self, *, wait: bool = True) -> None:
        self._launch("gateway", "gateway", ["--port", str(self.port)])
        if wait:
            self.await_gateway()

    def start_worker(self, index: int = 0, *, model: str = "", direct: bool = False, wait: bool = True) -> str:
        """Start `worker-INDEX` with the fleet's model or another one, `direct` past the proxy; returns its name."""
        name = f"worker-{index}"
        self._launch(name, "worker", ["--model", model or self.model], direct=direct)
        if wait:
            self.await_ready(name)
        return name

    def _launch(self, name: str, command: str, words: list[str], *, direct: bool = False) -> None:
        proxied = self._proxied and not direct
        url = f"redis://127.0.0.1:{self.proxies[command].port}/0" if proxied else self.store.url
        given: dict[str, Any] = {
            "rate_per_minute": 0,
            "concurrency_per_key": 0,
            "webhooks_enabled": True,
            "webhook_secret": SECRET,
            "webhook_allow_private": True,
            **self.settings,
        }
        words = [command, *words, "--data", str(self.folder), "--redis-url", url]
        for setting, value in given.items():
            words += ["--set", f"{setting}={value}"]
        child = Child(name, words, self.folder / f"{name}.log", first_pause_s=0.5)
        with self._lock:
            self.parts[name] = child
            self._orders.append(name)
        until(lambda: child.pid is not None, f"{name} is started", every=0.005)

    def _supervise(self) -> None:
        """Starts and restarts parts on one thread: Linux ends a child with the thread that made it."""
        while not self._ended.wait(0.02):
            with self._lock:
                orders, self._orders = self._orders, []
            for name in orders:
                self.parts[name].start()
            for name in list(self.supervised):
                self.parts[name].tend()

    def pid(self, name: str) -> int:
        pid = self.store.pid if name == "store" else self.parts[name].pid
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        return pid

    def signal(self, name: str, what: signal.Signals) -> float:
        """Send a signal; the time it was sent (monotonic)."""
        os.kill(self.pid(name), what)
        return time.monotonic()

    def kill(self, *names: str) -> float:
        """SIGKILL, all before any is waited for; the time (monotonic)."""
        pids = {name: self.pid(name) for name in names}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: all(self._left(name, pid) for name, pid in pids.items()), "the killed end")
        return killed

    def _left(self, name: str, pid: int) -> bool:
        if name == "store":
            return not self.store.alive()
        return self.parts[name].exited() is not None or self.parts[name].pid != pid

    def exit_code(self, name: str, seconds: float = PATIENCE_S) -> int:
        until(lambda: self.parts[name].exited() is not None, f"{name} ends", seconds)
        return int(self.parts[name].exited() or 0)

    def kill_store(self) -> float:
        self.store.kill()
        return time.monotonic()

    def client(self, timeout: float = 30.0) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout, verify=False, trust_env=False)

    def answers(self, path: str) -> bool:
        try:
            with self.client(5) as client:
                return client.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def await_gateway(self) -> None:
        """Wait until the gateway lives. Raises RuntimeError when its process ends instead."""

        def up() -> bool:
            if self.parts["gateway"].exited() is not None and "gateway" not in self.supervised:
                raise RuntimeError(f"the gateway ended: {self.log('gateway')[-600:]}")
            return self.alive()

        until(up, "the gateway lives", START_S, every=0.1)

    def alive(self) -> bool:
        return self.answers("/livez")

    def ready(self) -> bool:
        return self.answers("/readyz")

    def await_ready(self, name: str) -> None:
        """Wait until the present process of this worker is announced in the store."""

        def announced() -> bool:
            with suppress(redis.RedisError), self.redis() as client:
                return any(f"-{self.parts[name].pid}-" in worker for worker in client.zrange(store_keys.WORKERS, 0, -1))
            return False

        until(announced, f"{name} is ready", START_S, every=0.05)

    def job(self, job_id: str) -> dict[str, str]:
        """The job's hash as it stands in the store."""
        with self.redis() as client:
            found: dict[str, str] = client.hgetall(store_keys.JOB + job_id)
        return found

    def reach(self, job_id: str, step: int) -> None:
        """Wait until the job's worker told this step."""

        def there() -> bool:
            job = self.job(job_id)
            return job.get("status") == "processing" and int(job.get("step", 0)) >= step

        until(there, f"job at step {step}", every=0.01)

    def jobs_of(self, status: str) -> list[str]:
        """Ids in the store with this status."""
        with self.redis() as client:
            found = list(client.scan_iter(store_keys.JOB + "*", count=1000))
            return [key.removeprefix(store_keys.JOB) for key in found if client.hget(key, "status") == status]

    def blobs(self, kind: str) -> list[Path]:
        """The picture files of one kind, oldest first."""
        folder = self.folder / "blobs" / kind
        files = [path for path in folder.rglob("*") if path.is_file() and "-" in path.name and "#" not in path.name]
        return sorted(files, key=lambda path: path.stat().st_mtime_ns)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    @staticmethod
    def _resume(pid: int | None) -> None:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
