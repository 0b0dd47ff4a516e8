"""What ends is started again: the store on its log, children at once when they were killed, later when they fail."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
import redis

from service.errors import CommandFailed
from service.jobs.embedded import EmbeddedServerError
from service.local import restarts, store_keeper
from service.local.first_try_on import Dressing
from service.local.household import Household, ending
from service.local.restarts import MAX_RESTARTS, Restarts
from service.local.store_keeper import StoreKeeper
from service.local.supervisor import Child
from service.ports import listening


def tended(keeper: StoreKeeper, word: str, seconds: float = 60) -> list[str]:
    """What a keeper says until it says `word`."""
    said: list[str] = []
    patience = time.monotonic() + seconds
    while not any(word in line for line in said):
        assert time.monotonic() < patience, said
        said += keeper.tend()
        time.sleep(0.01)
    return said


def test_a_killed_store_comes_back_with_all_it_had_answered_for(tmp_path: Path) -> None:
    keeper = StoreKeeper(tmp_path, 0, first_pause_s=0.05)
    try:
        for number in range(1, 9):
            with redis.Redis.from_url(keeper.url) as client:
                assert client.incr("kept") == number
            assert keeper.pid is not None
            os.kill(keeper.pid, signal.SIGKILL)
            said = tended(keeper, "is back")
            assert "the store ended" in said[0] and "valkey.log" in said[0]
        assert keeper.tend() == []
    finally:
        keeper.stop()


def test_a_store_that_cannot_start_is_tried_again_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = StoreKeeper(tmp_path, 0, first_pause_s=0.01)
    start = store_keeper.start_server

    def refuse(*_: object) -> None:
        raise EmbeddedServerError("the disk is full")

    try:
        monkeypatch.setattr(store_keeper, "start_server", refuse)
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        tended(keeper, "could not be started again: the disk is full")
        monkeypatch.setattr(store_keeper, "start_server", start)
        tended(keeper, "is back")
        monkeypatch.setattr(store_keeper, "start_server", refuse)
        os.kill(keeper.pid, signal.SIGKILL)
        with pytest.raises(EmbeddedServerError, match="the disk is full"):
            tended(keeper, "never said")
    finally:
        keeper.stop()


def test_what_was_killed_after_it_served_starts_at_once_however_often() -> None:
    times = Restarts(1.0)
    for _ in range(50):
        assert times.ended(-signal.SIGKILL, restarts.LONG_LIFE_S)
        assert times.start_at <= time.monotonic()


def test_short_lives_wait_longer_and_longer_and_only_own_failures_are_given_up() -> None:
    killed, failing = Restarts(1.0), Restarts(1.0)
    pauses = []
    for _ in range(9):
        assert killed.ended(-signal.SIGKILL, 0.1)
        pauses.append(round(killed.start_at - time.monotonic()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert [failing.ended(1, 100.0) for _ in range(MAX_RESTARTS + 1)] == [True] * MAX_RESTARTS + [False]


def test_a_first_start_that_fails_by_itself_ends_the_start_and_a_killed_one_does_not(tmp_path: Path) -> None:
    for how, words in (("nonsense=1", "unknown setting"), ("sweep_s=5", "")):
        child = Child("worker 0", ["worker", "--model", "null", "--set", how], tmp_path / "log", first_pause_s=0.01)
        household = Household(None, [child])
        household.start()
        said: list[str] = []
        try:
            if words:
                with pytest.raises(CommandFailed, match=words):
                    _until_said(household, said, "never said")
            else:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                _until_said(household, said, "was restarted")
                assert "was killed (SIGKILL)" in said[0]
        finally:
            household.kill()


def _until_said(household: Household, said: list[str], word: str) -> None:
    patience = time.monotonic() + 120
    while not any(word in line for line in said) and time.monotonic() < patience:
        said += household.tend(starting=True)
        time.sleep(0.02)


def test_how_an_end_is_told() -> None:
    assert (ending(3), ending(-9)) == ("ended with code 3", "was killed (SIGKILL)")


def test_a_refused_demonstration_is_a_line(tmp_path: Path) -> None:
    dressing = Dressing("http://127.0.0.1:1", tmp_path / "first.jpg", 1)
    patience = time.monotonic() + 60
    while not dressing.over() and time.monotonic() < patience:
        time.sleep(0.01)
    assert dressing.made is None and str(dressing.failure).startswith("the first try-on failed")


def test_who_connects_before_anyone_serves_waits() -> None:
    """The sockets listen already: a connection is made, and answered by whoever takes the socket over."""
    with listening("localhost", 0) as sockets:
        port = sockets[0].getsockname()[1]
        assert {opened.getsockname()[1] for opened in sockets} == {port}
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
            opened = next(one for one in sockets if one.family == socket.AF_INET)
            taken, _ = opened.accept()
            with taken:
                assert taken.recv(100).startswith(b"GET /")
        with pytest.raises(CommandFailed, match=f"127.0.0.1:{port} .*--port"), listening("127.0.0.1", port):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
