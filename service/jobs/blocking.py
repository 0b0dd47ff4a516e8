"""Blocking calls off the event loop, on daemon threads, a few at once, each bounded in time.

A thread pool would be lost one thread at a time to calls that never return (a network mount that hangs), and the
interpreter waits for such threads at its exit. Here a call that takes too long is left behind with its thread: its
place is free again, and only so many may be left behind before further calls are refused. Threads whose call came
back take the next one: starting one would hold the event loop until the machine has time to run it.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

LEFT_BEHIND_MOST = 64


class BlockingCalls:
    """At most `at_once` calls on threads called `name`; for one event loop."""

    def __init__(self, at_once: int, name: str) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._name = name
        self._idle: list[_Thread] = []
        self._left_behind: set[_Thread] = set()
        weakref.finalize(self, _dismiss, self._idle)

    async def run(self, operation: Callable[[], T], timeout_s: float) -> T:
        """What `operation` returns or raises. Raises TimeoutError when it takes longer than `timeout_s`, not counting
        the wait for its turn, or when too many earlier ones have not come back.
        """
        async with self._turns:
            self._left_behind = {thread for thread in self._left_behind if thread.alive}
            if len(self._left_behind) >= LEFT_BEHIND_MOST:
                raise TimeoutError(f"{LEFT_BEHIND_MOST} earlier calls have not come back")
            thread = self._idle.pop() if self._idle else _Thread(self._name)
            future = thread.begin(operation, asyncio.get_running_loop())
            try:
                async with asyncio.timeout(timeout_s):
                    return await future
            finally:
                if future.done() and not future.cancelled():
                    self._idle.append(thread)
                else:
                    thread.dismiss()
                    self._left_behind.add(thread)


class _Thread:
    """One thread that runs one call at a time until it is dismissed, at the latest after the call it is in."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def begin(self, operation: Callable[[], T], loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            settle: Callable[[Any], None] = future.set_result
            value: Any
            try:
                value = operation()
            except BaseException as error:
                settle, value = future.set_exception, error
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, settle, value)

        self._calls.put(call)
        return future

    def dismiss(self) -> None:
        self._calls.put(None)


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call


def _settle(future: asyncio.Future[T], settle: Callable[[Any], None], value: object) -> None:
    if not future.done():
        settle(value)


def _dismiss(threads: list[_Thread]) -> None:
    for thread in threads:
        thread.dismiss()
