"""Blocking calls: threads are used again, a call that hangs costs only itself, idle threads end with their owner."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable

import pytest

from service.jobs import blocking
from service.jobs.blocking import BlockingCalls


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited for 20 s")


async def test_calls_one_after_another_share_a_thread_and_parallel_ones_do_not() -> None:
    calls = BlockingCalls(3, "shared")
    first = await calls.run(threading.get_ident, 20)
    assert {await calls.run(threading.get_ident, 20) for _ in range(20)} == {first}
    together = threading.Barrier(3)

    def meeting() -> int:
        together.wait(20)
        return threading.get_ident()

    assert len(set(await asyncio.gather(*(calls.run(meeting, 25) for _ in range(3))))) == 3
    await asyncio.gather(*(calls.run(lambda: time.sleep(0.01), 20) for _ in range(30)))
    assert len(named("shared")) == 3


async def test_an_error_is_the_callers_and_the_thread_goes_on() -> None:
    calls = BlockingCalls(1, "erring")

    def fail() -> None:
        raise FileNotFoundError("gone")

    for _ in range(3):
        with pytest.raises(FileNotFoundError, match="gone"):
            await calls.run(fail, 20)
    assert await calls.run(lambda: "well", 20) == "well"
    assert len(named("erring")) == 1


async def test_a_call_that_hangs_frees_its_place_and_its_thread_ends_when_it_comes_back() -> None:
    calls, stuck = BlockingCalls(1, "hanging"), threading.Event()
    with pytest.raises(TimeoutError):
        await calls.run(stuck.wait, 0.05)
    leaving = asyncio.create_task(calls.run(stuck.wait, 20))
    await until(lambda: len(named("hanging")) == 2)
    leaving.cancel()
    assert await calls.run(lambda: "next", 20) == "next"
    assert len(named("hanging")) == 3
    stuck.set()
    await until(lambda: len(named("hanging")) == 1)
    assert await calls.run(lambda: "again", 20) == "again"
    assert len(named("hanging")) == 1


async def test_only_so_many_may_be_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "LEFT_BEHIND_MOST", 2)
    calls, stuck = BlockingCalls(4, "crowded"), threading.Event()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await calls.run(stuck.wait, 0.05)
    with pytest.raises(TimeoutError, match="2 earlier calls"):
        await calls.run(lambda: None, 20)
    stuck.set()
    await until(lambda: not named("crowded"))
    assert await calls.run(lambda: "room", 20) == "room"


async def test_idle_threads_end_with_their_owner() -> None:
    calls = BlockingCalls(2, "owned")
    await asyncio.gather(*(calls.run(lambda: time.sleep(0.05), 20) for _ in range(2)))
    assert named("owned")
    del calls
    gc.collect()
    await until(lambda: not named("owned"))
