"""`changeroom top` beside a running service: one frame for scripts, live frames in a real terminal, and outages."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from service.jobs.embedded import EmbeddedServer, start_server

SAMPLES = Path(str(files("service.gateway") / "studio" / "samples"))
COMMAND = [sys.executable, "-m", "service.cli"]
PATIENCE_S = 120.0
pytestmark = pytest.mark.timeout(400)


@dataclass
class Running:
    """A store, a gateway that takes one job at a time, and a worker without an engine."""

    store: EmbeddedServer
    data: Path
    url: str

    def watch(self, *words: str, **changed: str) -> list[str]:
        given = {"--url": self.url, "--data": str(self.data)} | changed
        return [*COMMAND, "top", *(part for pair in given.items() for part in pair), *words]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("top")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = start_server(data)
    common = ["--data", str(data), "--redis-url", store.url, "--set", "store_timeout_s=5", "--set", "rate_per_minute=0"]
    common += ["--set", "max_in_flight=1"]
    started = [
        subprocess.Popen([*COMMAND, *words, *common], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["gateway", "--port", str(port)], ["worker", "--model", "null:20:0.1"])
    ]
    service = Running(store, data, f"http://127.0.0.1:{port}")
    try:
        until_ready(service.url)
        visit(service.url)
        yield service
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
        store.stop()


def until_ready(url: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        try:
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the service did not become ready")


def visit(url: str) -> None:
    """One try-on to its end, and one that is refused meanwhile."""
    names = {"person": "person-1.png", "garment": "tops-1.png"}
    parts = [(part, (SAMPLES / name).read_bytes()) for part, name in names.items()]
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        accepted = client.post("/v1/try-ons", files=parts)
        assert accepted.status_code == 202
        assert 503 in (client.post("/v1/try-ons", files=parts).status_code for _ in range(10))
        give_up_at = time.monotonic() + PATIENCE_S
        while client.get(accepted.headers["location"]).json()["status"] != "succeeded":
            assert time.monotonic() < give_up_at
            time.sleep(0.1)


def frame(running: Running, *words: str, **changed: str) -> str:
    """One frame in a wide pipe."""
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(
        running.watch("--once", "--interval", "0.5", *words, **changed),
        capture_output=True, text=True, timeout=PATIENCE_S, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_frame_tells_queue_workers_stages_and_refusals(running: Running) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while "whole try-on" not in (text := frame(running)) and time.monotonic() < give_up_at:
        time.sleep(0.5)
    for word in ("waiting", "backlog", "queue-full", "Workers ready: 1", "dead letters"):
        assert word in text
    (row,) = re.findall(r"(?m)^ \S+ +null +none .*$", text)
    assert re.search(r"(idle|working) +\d .*%", row)
    stages = re.findall(r"(?m)^ (\w[\w -]*?) {2,}[\d.]+ m?s +[\d.]+ m?s +\d+ ", text)
    assert stages == ["intake", "queue", "prepare", "denoise", "encode", "store", "whole try-on"]
    (p50,) = re.findall(r"(?m)^ denoise +([\d.]+) (?:m?s)", text)
    assert float(p50) > 0


def test_without_the_store_it_shows_what_the_gateway_knows(running: Running, tmp_path: Path) -> None:
    text = frame(running, **{"--data": str(tmp_path)})
    assert "succeeded" in text and "queue-full" in text and "give --redis-url or --data" in text


def test_without_a_gateway_it_says_so_and_shows_the_store(running: Running) -> None:
    text = frame(running, **{"--url": "http://127.0.0.1:1"})
    assert "! no gateway answers at http://127.0.0.1:1" in text and "not known: no gateway" in text
    assert "Workers ready: 1" in text


def test_nothing_at_all_is_one_line_and_a_failure(running: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        running.watch("--once", **{"--url": "http://127.0.0.1:1", "--data": str(tmp_path)}),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: no gateway answers at http://127.0.0.1:1; start the service with: changeroom up\n"


def test_a_terminal_gets_frame_after_frame_until_ctrl_c(running: Running) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        running.watch("--interval", "0.3"), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    try:
        told = read_until(ours, lambda text: text.count("Workers ready: 1") >= 3)
        assert "\x1b[?1049h" in told, "the alternate screen"
        process.send_signal(signal.SIGINT)
        rest = read_until(ours, lambda text: "\x1b[?1049l" in text)
        assert "Traceback" not in told + rest
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, enough: Callable[[str], bool]) -> str:
    """What the terminal was sent, until it is enough or its other end closed."""
    told = ""
    give_up_at = time.monotonic() + PATIENCE_S
    while not enough(told):
        assert time.monotonic() < give_up_at, told
        if select.select([terminal], [], [], 1)[0]:
            try:
                told += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
    return told
