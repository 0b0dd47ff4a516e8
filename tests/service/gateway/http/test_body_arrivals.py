"""How far a body may fall behind, and how many may: a phone in a lift is waited for, a crowd of tricklers is not."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest
from gateway_live import Live, closed_after

from service.gateway.http.arrivals import FAIR_BYTES_PER_S, Arrival, Pace, SlowBodies

HEAD = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"


def test_a_pace_is_how_far_a_body_is_behind() -> None:
    pace = Pace(1000, now=50)
    assert pace.lag(50) == 0 and pace.lag(53) == 3
    pace.brought(1000, 53)
    assert pace.lag(53) == 2
    pace.brought(1_000_000, 53)
    assert pace.lag(53) == 0, "bytes that came early buy no pause"
    assert pace.lag(60) == 7
    pace.excuse(60)
    assert pace.lag(61) == 1


def test_a_body_at_the_fair_rate_is_never_behind_and_a_slower_one_ends_in_a_time_that_follows_its_length() -> None:
    fair, slow = Arrival(0, lambda error: None), Arrival(0, lambda error: None)
    for second in range(1, 3600):
        fair.brought(FAIR_BYTES_PER_S, second)
        slow.brought(FAIR_BYTES_PER_S // 2, second)
        assert fair.fair.lag(second) == 0
    assert slow.fair.lag(3599) == pytest.approx(3599 / 2)


def test_so_many_are_slow_at_a_time_and_a_quarter_of_one_address() -> None:
    slow = SlowBodies(8)
    assert [slow.admit(f"a{n}", "198.41.0.4") for n in range(3)] == [True, True, False]
    assert slow.admit("a0", "198.41.0.4"), "who is slow already stays so"
    assert [slow.admit(f"b{n}", None) for n in range(7)] == [True] * 6 + [False]
    slow.leave("a0")
    slow.leave("nobody")
    assert slow.admit("a2", "198.41.0.4") and not slow.admit("c", None)
    assert len(slow) == 8
    assert not SlowBodies(0).admit("any", None)


@pytest.fixture(scope="module")
def patient(launch: Callable[..., Live]) -> Live:
    return launch(body_idle_timeout_s=0.5, body_pause_s=90, max_slow_bodies=1)


def test_one_upload_may_pause_and_those_beyond_the_number_may_not(patient: Live) -> None:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", patient.port()), timeout=60)))
            for _ in range(3)
        ]
        for raw in sockets:
            raw.sendall(HEAD + b"{")
        waiting = set(sockets)
        while len(waiting) > 1:
            ready, _, _ = select.select(list(waiting), [], [], 60)
            for raw in ready:
                assert closed_after(raw)[1].startswith(b"HTTP/1.1 408")
                waiting.remove(raw)
        (patiently,) = waiting
        patiently.sendall(b"}" + b" " * 8)
        assert patiently.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_pause_ends_too(launch: Callable[..., Live]) -> None:
    hasty = launch(body_idle_timeout_s=0.3, body_pause_s=0.6)
    with closing(socket.create_connection(("127.0.0.1", hasty.port()), timeout=60)) as raw:
        started = time.monotonic()
        raw.sendall(HEAD + b"{")
        _, said = closed_after(raw)
        assert said.startswith(b"HTTP/1.1 408") and time.monotonic() - started >= 0.6
