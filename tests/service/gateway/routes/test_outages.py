"""What a caller sees while the store is away, while uploads fill the memory, and under a hostile body."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from gateway_live import Live, picture, settings_in

from service.gateway.http import limits
from service.gateway.http.limits import MEMORY_BODIES
from service.jobs.embedded import EmbeddedServer, start_server

FILES = [("person", ("p.jpg", picture(), "image/jpeg")), ("garment", ("g.jpg", picture(64, 64), "image/jpeg"))]


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[list[EmbeddedServer]]:
    """A store of its own, for a test that ends it; the last of the list is the one to stop."""
    servers = [start_server(tmp_path)]
    yield servers
    servers[-1].stop()


@pytest.fixture
def lonely(tmp_path: Path, own_store: list[EmbeddedServer]) -> Iterator[Live]:
    """A service on that store; its worker is idle, so that only the gateway meets the outage."""
    live = Live(settings_in(tmp_path / "service", own_store[0].url, store_timeout_s=0.8)).start()
    live.hold()
    yield live
    live.stop()


def test_a_store_that_is_away_is_503_at_once_and_comes_back(
    lonely: Live, own_store: list[EmbeddedServer], tmp_path: Path
) -> None:
    live = lonely
    with live.client() as client:
        made = client.post("/v1/try-ons", files=FILES).json()
        own_store[0].kill()
        for method, path in (("GET", made["links"]["self"]), ("GET", "/readyz"), ("GET", "/metrics")):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable"), path
            assert int(answer.headers["retry-after"]) >= 1
        refused = client.post("/v1/try-ons", files=FILES)
        assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable")
        assert client.get("/livez").status_code == 200
        own_store.append(start_server(tmp_path))
        deadline = time.monotonic() + 60
        while client.get(made["links"]["self"]).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.get(made["links"]["self"]).json()["status"] == "queued"
        assert client.post("/v1/try-ons", files=FILES).status_code == 202


def test_a_stop_answers_those_who_wait(launch: Callable[..., Live]) -> None:
    live = launch()
    live.hold()
    lines: list[str] = []

    def follow(path: str) -> None:
        with live.client() as client, client.stream("GET", path) as answer:
            for line in answer.iter_lines():
                lines.append(line)

    def wait(path: str) -> None:
        with live.client() as client:
            lines.append(client.get(path, headers={"Prefer": "wait=60"}).json()["status"])

    with live.client() as client:
        links = client.post("/v1/try-ons", files=FILES).json()["links"]
    threads = [
        threading.Thread(target=follow, args=(links["events"],)),
        threading.Thread(target=wait, args=(links["self"],)),
    ]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 60
    while (live.running() < 2 or len(lines) < 3) and time.monotonic() < patience:
        time.sleep(0.05)
    live.stop()
    for thread in threads:
        thread.join(25)
    assert not any(thread.is_alive() for thread in threads)
    assert "event: queued" in lines and "queued" in lines


def test_all_uploads_together_are_bounded(launch: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE_S", 1e9)
    live = launch(body_limit_bytes=100_000)
    head = b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 100000\r\n\r\n"
    senders = [socket.create_connection(("127.0.0.1", live.port()), timeout=10) for _ in range(MEMORY_BODIES + 1)]
    try:
        for raw in senders:
            raw.sendall(head + b" " * 99_000)
        assert len(select.select(senders, [], [], 60)[0]) == 1  # refused: the others hold all there is
        with live.client() as client:
            one_more = {"content": b" " * 90_000, "headers": {"Content-Type": "application/json"}}
            answer = client.post("/v1/try-ons", **one_more)
            assert (answer.status_code, answer.json()["code"]) == (503, "uploads-full")
            assert answer.headers["retry-after"] == "2"
            assert 'admission_rejected_total{reason="uploads-full"}' in client.get("/metrics").text
    finally:
        for raw in senders:
            raw.close()
    deadline = time.monotonic() + 60
    with live.client() as client:
        while client.post("/v1/try-ons", files=FILES).status_code != 202:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_hostile_json_does_not_hold_the_service(live: Live) -> None:
    bombs = [b"[" * 30_000_000, b"[" + b"1," * 15_000_000 + b"1]", json.dumps({"person": "A" * 30_000_000}).encode()]
    seconds: list[float] = []
    bombed: list[float] = []
    done = threading.Event()

    def watch() -> None:
        with live.client() as client:
            while not done.is_set():
                started = time.monotonic()
                assert client.get("/livez").status_code == 200
                seconds.append(time.monotonic() - started)
                time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for bomb in bombs:
            started = time.monotonic()
            with httpx.Client(timeout=60) as client:
                answer = client.post(
                    live.url + "/v1/try-ons", content=bomb, headers={"Content-Type": "application/json"}
                )
            assert 400 <= answer.status_code < 500
            bombed.append(time.monotonic() - started)
    finally:
        done.set()
        watcher.join()
    assert len(seconds) > 5 and sorted(seconds)[len(seconds) // 2] < max(bombed) / 2
