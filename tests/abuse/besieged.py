"""A real service under attack: store, gateway and worker processes with default bounds, and eyes on all of them.

`Besieged.siege()` wraps one attack. While it lasts `/livez` is asked over connections of its own; afterwards every
process is the one it was, memory stayed bounded, nothing is left in flight that nobody asked for, and a normal try-on
succeeds.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from loadtests.bench.local_service import free_port
from service.jobs.embedded import EmbeddedServer, start_server

MIB = 1 << 20
START_S = 120.0
ANSWER_S = 5.0
STALL_S = 30.0
"""What an answer may take, and what a busy machine may add to it; what an attack holds up for good exceeds both."""
GATEWAY_GROWTH = 300 * MIB
DECODER_PEAK = 900 * MIB
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def peak_bytes(pid: int) -> int:
    """The largest resident size of a process since `forget_peak`."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> list[int]:
    """The processes a process started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


class Watch:
    """What was seen during one siege: seconds of each `/livez`, and its failures."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []


class Besieged:
    """Start with `start`; `url` answers until `stop`."""

    def __init__(self, folder: Path, *, model: str = "null:2:0.02", **settings: Any) -> None:
        self.folder = folder
        self._model = model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store: EmbeddedServer
        self._settings = settings
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._person = b""
        self._garment = b""

    def start(self, person: bytes, garment: bytes) -> Besieged:
        """Everything, ready; the pictures are those of the normal try-on after each siege."""
        self._person, self._garment = person, garment
        self.store = start_server(self.folder / "store")
        self._run("gateway", "--port", str(self.port))
        self._run("worker", "--model", self._model)
        patience = time.monotonic() + START_S
        while time.monotonic() < patience:
            try:
                if httpx.get(self.url + "/readyz", timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            for name, part in self._parts.items():
                if part.poll() is not None:
                    raise RuntimeError(f"{name} did not start: {self.log(name)[-2000:]}")
            time.sleep(0.1)
        raise RuntimeError("the service was not ready in time")

    def _run(self, command: str, *words: str) -> None:
        given = {"rate_per_minute": 0, "webhooks_enabled": True, "webhook_secret": SECRET, "store_timeout_s": 5}
        chosen = [f"--set={name}={value}" for name, value in {**given, **self._settings}.items()]
        where = ["--data", str(self.folder / "data"), "--redis-url", self.store.url]
        with (self.folder / f"{command}.log").open("wb") as log:
            self._parts[command] = subprocess.Popen(
                [sys.executable, "-m", "service.cli", command, *where, *words, *chosen],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def stop(self) -> None:
        for part in self._parts.values():
            part.kill()
            part.wait()
        if hasattr(self, "store"):
            self.store.kill()

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text(errors="replace")

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def connect(self, receive_buffer: int = 0, source: str = "") -> socket.socket:
        """A connection, from another loopback address when `source` names one."""
        raw = socket.socket()
        if source:
            raw.bind((source, 0))
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", self.port))
        return raw

    def dress(self, client: httpx.Client, **options: Any) -> httpx.Response:
        """The normal try-on."""
        files = [
            ("person", ("p.jpg", self._person, "image/jpeg")),
            ("garment", ("g.jpg", self._garment, "image/jpeg")),
        ]
        return client.post("/v1/try-ons", files=files, **options)

    @contextmanager
    def siege(self, growth: int = GATEWAY_GROWTH) -> Iterator[Watch]:
        """Watch one attack; the checks after it are those of every attack."""
        gateway, watch, over = self._parts["gateway"].pid, Watch(), threading.Event()
        alive = {name: part.pid for name, part in self._parts.items()}
        start = self._resident(gateway)
        for pid in (gateway, *children(gateway)):
            forget_peak(pid)
        asking = threading.Thread(target=self._ask, args=(watch, over), daemon=True)
        asking.start()
        try:
            yield watch
        finally:
            over.set()
            asking.join(60)
        assert {name: part.pid for name, part in self._parts.items() if part.poll() is None} == alive
        assert not watch.failures, watch.failures[:3]
        assert max(watch.seconds) < ANSWER_S + STALL_S, f"/livez took {max(watch.seconds):.1f} s"
        assert peak_bytes(gateway) - start < growth
        for pid in children(gateway):
            assert peak_bytes(pid) < DECODER_PEAK
        with self.client() as client:
            answer = self.dress(client, headers={"Prefer": "wait=30"})
            assert answer.status_code == 200 and answer.json()["status"] == "succeeded", answer.text

    def _resident(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _ask(self, watch: Watch, over: threading.Event) -> None:
        with self.client() as client:
            while True:
                started = time.monotonic()
                try:
                    answer = client.get("/livez", headers={"Connection": "close"})
                    if answer.status_code != 200:
                        watch.failures.append(answer.text)
                except httpx.HTTPError as error:
                    watch.failures.append(repr(error))
                watch.seconds.append(time.monotonic() - started)
                if over.wait(0.1):
                    return


def closed(raw: socket.socket) -> tuple[float, bytes]:
    """Seconds until the server closes, and all it said before."""
    started, said = time.monotonic(), b""
    try:
        while chunk := raw.recv(65536):
            said += chunk
    except ConnectionResetError:
        said += b""
    return time.monotonic() - started, said


def refused(answer: httpx.Response, started: float, *codes: str) -> dict[str, Any]:
    """That an answer is a problem of ours with one of `codes`, 4xx and in time; returns the problem."""
    assert time.monotonic() - started < ANSWER_S + STALL_S
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] in codes, problem
    return problem
