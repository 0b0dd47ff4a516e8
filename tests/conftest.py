"""A real store for every test that asks for one: the embedded server, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.jobs.embedded import EmbeddedServer, start_server
from service.settings import let_threads_sleep

let_threads_sleep()


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for the whole run. Tests that stop or starve a server start their own."""
    server = start_server(tmp_path_factory.mktemp("store"))
    yield server
    server.stop()


@pytest.fixture
def store_url(store_server: EmbeddedServer) -> str:
    """Address of the emptied store."""
    with redis.Redis(unix_socket_path=str(store_server.socket_path)) as client:
        client.flushall()
        client.config_set("maxmemory", "0")
    return store_server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that the test may stop, kill or freeze."""
    server = start_server(tmp_path / "own")
    yield server
    server.kill()
