"""Blocking calls off the event loop, each on a daemon thread of its own, a few at once, each bounded in time.

A thread pool would be lost one thread at a time to calls that never return (a network mount that hangs), and the
interpreter waits for such threads at its exit. Here a call that takes too long is left behind: its place is free
again, and only so many may be left behind before further calls are refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

LEFT_BEHIND_MOST = 64


class BlockingCalls:
    """At most `at_once` calls on threads called `name`; for one event loop."""

    def __init__(self, at_once: int, name: str) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._name = name
        self._left_behind: set[threading.Thread] = set()

    async def run(self, operation: Callable[[], T], timeout_s: float) -> T:
        """What `operation` returns or raises. Raises TimeoutError when it takes longer than `timeout_s`, not counting
        the wait for its turn, or when too many earlier ones have not come back.
        """
        async with self._turns:
            self._left_behind = {thread for thread in self._left_behind if thread.is_alive()}
            if len(self._left_behind) >= LEFT_BEHIND_MOST:
                raise TimeoutError(f"{LEFT_BEHIND_MOST} earlier calls have not come back")
            loop = asyncio.get_running_loop()
            future: asyncio.Future[T] = loop.create_future()

            def work() -> None:
                settle: Callable[[Any], None] = future.set_result
                value: Any
                try:
                    value = operation()
                except BaseException as error:
                    settle, value = future.set_exception, error
                with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(_settle, future, settle, value)

            thread = threading.Thread(target=work, name=self._name, daemon=True)
            thread.start()
            try:
                async with asyncio.timeout(timeout_s):
                    return await future
            except BaseException:
                if not future.done() or future.cancelled():
                    self._left_behind.add(thread)
                raise


def _settle(future: asyncio.Future[T], settle: Callable[[Any], None], value: object) -> None:
    if not future.done():
        settle(value)
