"""Fixtures of the gateway's tests: one store a session, one running service a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gateway_live import Live, settings_in
from redis import Redis

from service.jobs.embedded import EmbeddedServer, start_server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real Valkey, with its own data folder."""
    server = start_server(tmp_path_factory.mktemp("store"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def launch(store: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Live]]:
    """Start services with settings of choice, each on a database of its own; all end with the module."""
    started: list[Live] = []

    def start(**overrides: Any) -> Live:
        address = f"{store.url}?db={len(started)}"
        with Redis.from_url(address) as client:
            client.flushdb()
        live = Live(settings_in(tmp_path_factory.mktemp("service"), address, **overrides)).start()
        started.append(live)
        return live

    yield start
    for live in started:
        live.stop()


@pytest.fixture(scope="module")
def live(launch: Callable[..., Live]) -> Live:
    """The service with default settings."""
    return launch()


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    """A client of `live`."""
    with live.client() as client:
        yield client


@pytest.fixture
def held(live: Live) -> Iterator[Live]:
    """`live` with its worker idle until the end of the test."""
    live.hold()
    yield live
    live.resume()
