"""`changeroom up` as a program: it starts, answers, survives a crash, stops in order, starts again."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from PIL import Image
from running_up import Up, gone, store_pid

from service.errors import CommandFailed
from service.jobs.embedded import socket_path_for
from service.local.first_try_on import dress_sample
from service.local.supervisor import Child, ChildFailed
from service.local.up import own_address, up
from service.settings import load_settings

IDLE_S = 15.0
IDLE_SHARE = 0.05
"""Of what a start and its first try-on cost the same processor: what it idles on for IDLE_S is far less."""


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("person.png", "top.png"):
        Image.effect_noise((120, 160), 50).convert("RGB").save(folder / name)
    garments = [{"file": "top.png", "category": "tops", "layer": None}]
    outfit = {"person": "person.png", "garments": garments, "prompt": "please"}
    (folder / "manifest.json").write_text(json.dumps({"outfits": [outfit]}))
    return folder


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    service = Up(tmp_path / "data", "--model", "null", "--set", "drain_grace_s=5", "--set", "lease_s=2")
    yield service
    service.close()


def processor_seconds(pid: int) -> float:
    """What a process and all its children have used so far, of the processor and not of the clock."""
    own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = sum(int(own[field]) for field in (11, 12))
    return ticks / os.sysconf("SC_CLK_TCK") + sum(processor_seconds(int(child)) for child in below)


@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_up_serves_survives_a_crash_stops_in_order_and_starts_again(running: Up, samples: Path, tmp_path: Path):
    running.wait_for("serving until Ctrl-C")
    first = dress_sample(running.address, tmp_path / "first.jpg", 60, samples)
    assert first is not None and first.path.is_absolute()
    with Image.open(first.path) as picture:
        assert picture.size == (120, 160)
    assert {"intake", "queue", "prepare", "encode"} <= set(first.timings)

    with redis.Redis(unix_socket_path=str(socket_path_for(tmp_path / "data"))) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(load_settings().store_memory_bytes)

    worker = running.children()["worker"]
    os.kill(worker, signal.SIGKILL)
    running.wait_for("worker 0 was restarted")
    assert dress_sample(running.address, tmp_path / "second.jpg", 60, samples) is not None

    children = running.children()
    assert set(children) == {"gateway", "worker"} and children["worker"] != worker
    store = store_pid(tmp_path / "data")
    assert running.stop() == 0
    assert all(gone(pid) for pid in (*children.values(), store))

    again = Up(tmp_path / "data", "--host", "0.0.0.0", "--set", "auth_required=off")
    try:
        again.wait_for("serving until Ctrl-C")
        if (own := own_address()) is not None:
            elsewhere = f"http://{own}:{httpx.URL(again.address).port}/"
            assert f"from a phone  {elsewhere}\n" in again.told
            assert httpx.get(elsewhere, trust_env=False).status_code == 200
        used = processor_seconds(again.process.pid)
        time.sleep(IDLE_S)
        idle = processor_seconds(again.process.pid) - used
        assert idle < IDLE_SHARE * used, f"{idle:.2f} s by everything that runs, after {used:.2f} s for its start"
        jobs = httpx.get(f"{again.address}/metrics", trust_env=False).text
        assert 'changeroom_requests_total{reason="",status="succeeded"}' in jobs
    finally:
        assert again.stop(signal.SIGTERM) == 0


@pytest.mark.timeout(400)
def test_a_first_try_on_that_is_refused_is_a_line_and_not_an_end(tmp_path: Path):
    service = Up(tmp_path / "data", "--model", "null", "--set", "image_limit_bytes=1024", "--set", "drain_grace_s=5")
    try:
        service.wait_for("serving until Ctrl-C")
        (line,) = (line for line in service.told if line.startswith("the first try-on was refused: "))
        assert line.endswith("; everything goes on, dress your own person on the page\n")
        assert httpx.get(f"{service.address}/readyz", trust_env=False).status_code == 200
        assert service.stop() == 0
    finally:
        service.close()


def test_a_taken_port_is_said_in_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"127.0.0.1:{port} .*--port"):
            up(load_settings(port=port, data_dir=tmp_path, model="null"))


def test_a_model_that_does_not_load_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(CommandFailed, match="worker 0 did not start: model 'null:x' is not"):
        up(load_settings(port=0, data_dir=tmp_path, model="null:x"))


def test_no_samples_are_no_failure(tmp_path: Path):
    assert dress_sample("http://127.0.0.1:1", tmp_path / "x.jpg", 1, tmp_path) is None


def test_a_refused_first_try_on_says_why(samples: Path, tmp_path: Path):
    with pytest.raises(CommandFailed, match="the first try-on failed"):
        dress_sample("http://127.0.0.1:1", tmp_path / "x.jpg", 1, samples)


def test_a_child_that_keeps_failing_is_given_up_with_its_own_words(tmp_path: Path):
    child = Child("worker 0", ["worker", "--set", "nonsense=1"], tmp_path / "log", first_pause_s=0.01)
    restarts = 0
    child.start()
    with pytest.raises(ChildFailed, match="worker 0 keeps failing: unknown setting 'nonsense'"):
        give_up_at = time.monotonic() + 120
        while time.monotonic() < give_up_at:
            restarts += child.tend()
            time.sleep(0.02)
    assert restarts == 5
