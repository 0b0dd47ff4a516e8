"""The one thread an engine runs on, and the clock that notices when it hangs.

Everything an engine does (loading, warm-up, batches) happens on this thread, because CUDA contexts, graphs
and allocator pools belong to the thread that made them. The thread is a daemon: a hung engine cannot keep
the process from exiting.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """Runs callables one at a time; `stalled_for` is how long the present one has shown no sign of life."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._alive_at: float | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine's thread and wait for it; raises what it raises."""
        future: Future[T] = Future()
        self._work.put((future, work))
        return await asyncio.wrap_future(future)

    def sign_of_life(self) -> None:
        """Called from the engine's thread whenever it gets on, such as after a denoising step."""
        self._alive_at = time.monotonic()

    def stalled_for(self) -> float:
        """Seconds since the present call began or last showed life; 0.0 while idle."""
        since = self._alive_at
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Let the thread end after the present call; does not wait."""
        self._work.put(None)

    def _loop(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if not future.set_running_or_notify_cancel():
                continue
            self._alive_at = time.monotonic()
            try:
                result = work()
            except BaseException as error:
                self._alive_at = None
                future.set_exception(error)
            else:
                self._alive_at = None
                future.set_result(result)
