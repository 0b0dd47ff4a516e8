"""One address that takes every connection it can get: it takes them from itself, and others are served."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from besieged import MIB, Besieged, closed
from hostile_pictures import encoded, plain

from service.gateway.http.peers import Peers
from service.settings import Settings, SettingsError

CAP = 8
GREEDY, BYSTANDER, PROXY = "127.0.0.2", "127.0.0.3", "127.0.0.1"
POST = b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

needs_loopback = pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    service = Besieged(
        tmp_path_factory.mktemp("counting"),
        max_connections_per_address=CAP,
        trusted_proxies=f"{PROXY}/32",
        header_timeout_s=90,
        body_idle_timeout_s=90,
    )
    try:
        yield service.start(encoded(plain(), "JPEG"), encoded(plain(64, 64, "navy"), "JPEG"))
    finally:
        service.stop()


def served(besieged: Besieged, source: str) -> None:
    with httpx.Client(base_url=besieged.url, timeout=60, transport=httpx.HTTPTransport(local_address=source)) as client:
        answer = besieged.dress(client, headers={"Prefer": "wait=30"})
        assert answer.status_code == 200 and answer.json()["status"] == "succeeded", answer.text


@needs_loopback
def test_silent_connections_of_one_address_make_room_for_its_own_only(counting: Besieged) -> None:
    with counting.siege(growth=64 * MIB), ExitStack() as stack:
        bystander = stack.enter_context(closing(counting.connect(source=BYSTANDER)))
        greedy = [stack.enter_context(closing(counting.connect(source=GREEDY))) for _ in range(4 * CAP)]
        assert [closed(raw)[1] for raw in greedy[:-CAP]] == [b""] * 3 * CAP
        for raw in (greedy[-1], bystander):
            raw.sendall(GET)
            assert closed(raw)[1].startswith(b"HTTP/1.1 200")


@needs_loopback
def test_an_address_with_all_its_connections_at_work_is_told_and_others_are_served(counting: Besieged) -> None:
    with counting.siege(growth=64 * MIB), ExitStack() as stack:
        busy = [stack.enter_context(closing(counting.connect(source=GREEDY))) for _ in range(CAP)]
        for raw in busy:
            raw.sendall(POST + b"{")
        said, patience = b"", time.monotonic() + 30
        while not said.startswith(b"HTTP/1.1 429") and time.monotonic() < patience:
            with closing(counting.connect(source=GREEDY)) as newcomer:  # served until all of them are seen at work
                newcomer.sendall(GET)
                said = closed(newcomer)[1]
        assert said.startswith(b"HTTP/1.1 429") and b"urn:changeroom:problem:address-limited" in said
        assert b"\r\nretry-after: 1\r\n" in said
        served(counting, BYSTANDER)
        with ExitStack() as proxied:
            for raw in [proxied.enter_context(closing(counting.connect(source=PROXY))) for _ in range(2 * CAP)]:
                raw.sendall(GET)
                assert closed(raw)[1].startswith(b"HTTP/1.1 200")
    served(counting, GREEDY)  # what it closed is its own again


@pytest.mark.parametrize(
    ("given", "host", "name"),
    [
        ({}, "198.41.0.4", "198.41.0.4"),
        ({}, "2001:500:2::c", "2001:500:2::/64"),
        ({}, "::ffff:198.41.0.4", "198.41.0.4"),
        ({}, "10.1.2.3", None),
        ({}, "127.0.0.1", None),
        ({}, "100.64.0.1", None),
        ({}, "fd12::1", None),
        ({}, "", None),
        ({"trusted_proxies": "private, 198.41.0.0/24"}, "198.41.0.4", None),
        ({"trusted_proxies": ""}, "10.1.2.3", "10.1.2.3"),
        ({"max_connections_per_address": 0}, "198.41.0.4", None),
    ],
)
def test_which_addresses_are_counted(given: dict[str, Any], host: str, name: str | None) -> None:
    peers = Peers(Settings(**{"max_connections_per_address": 1, **given}))
    assert peers.enter(host) == name
    assert not peers.crowded(name)
    peers.enter(host)
    assert peers.crowded(name) == (name is not None)
    peers.leave(name)
    assert not peers.crowded(name)


def test_a_trusted_proxy_must_be_a_network() -> None:
    with pytest.raises(SettingsError, match=r"CHANGEROOM_TRUSTED_PROXIES: '10\.0\.0\.1/8' is neither"):
        Peers(Settings(trusted_proxies="10.0.0.1/8"))
