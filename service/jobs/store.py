"""The connection to the store: bounded in time, one error for every way it can fail, scripts by name.

redis-py retries ten times and waits five seconds by default, which turns one stalled write into two and
a dead server into a minute of silence. Here a call takes at most `store_timeout_s`, nothing is retried
by the client library, and only calls that are safe to repeat are repeated, once, after a broken
connection. What never reached the server (nobody listens, or it is still loading its log) is tried
again for as long as the call may take: a store that is restarted in that time was not away. Blocking
reads have their own connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.errors import StoreUnavailable
from service.jobs.store_keys import lua_table
from service.retry_after import SHORTLY, SOON

_REFUSALS = (
    "OOM",
    "READONLY",
    "MISCONF",
    "LOADING",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOAUTH",
    "BUSY",
    "NOREPLICAS",
)
BLOCKING_SLACK_S = 0.8
KNOCK_S = 0.03
CONNECTIONS = 32


# A store at its `maxmemory` takes nothing new in; what ends, frees or moves what it has goes on a little above it, or
# nothing would ever get less again: workers finish, owners cancel and erase, time expires.
GO_ON_WHEN_FULL = frozenset(
    {
        *("announce", "cancel", "claim", "erase", "fail_attempt", "finish", "hand_back", "heartbeat", "progress"),
        *("release", "sweep", "webhooks_due"),
    }
)


@cache
def script_text(name: str) -> str:
    """The full text of an atomic step: key table, shared moves, then `<name>.lua`."""
    folder = files("service.jobs") / "scripts"
    head = "#!lua flags=allow-oom\n" if name in GO_ON_WHEN_FULL else ""
    return head + lua_table() + (folder / "queue.lua").read_text() + (folder / f"{name}.lua").read_text()


@cache
def _digest(text: str) -> str:
    """What the server knows a script by once it was run."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def open_client(url: str, timeout_s: float) -> Redis:
    """A client for short calls: `timeout_s` to connect, no retries. `Store.call` bounds the answers.

    redis-py's own bound of a call is left out: it rests on `asyncio.wait_for`, which up to Python 3.11 swallows a
    cancellation that comes as its future ends, and a task that is not canceled holds up the exit of its process.

    A new connection carries its first command at once: what redis-py says before it by default (HELLO, its name, its
    wish for maintenance notices) costs four round trips, which over a slow network last longer than `timeout_s`.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=None,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        driver_info=None,
    )


class Store:
    """Short calls on `client`, blocking reads on a twin of it. All raise StoreUnavailable and nothing
    else of redis.

    A programming error in a script surfaces as redis ResponseError, on purpose.
    """

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self.client = client
        self.timeout_s = timeout_s
        pool = client.connection_pool
        arguments = {**pool.connection_kwargs, "socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
        self.blocking = Redis(connection_pool=ConnectionPool(pool.connection_class, **arguments))
        self._sent: set[str] = set()
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._silent_at = 0.0

    async def close(self) -> None:
        """Close every connection; a blocked read on another task ends with StoreUnavailable."""
        await self.blocking.aclose()
        await self.blocking.connection_pool.disconnect()
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    async def script(self, name: str, *args: str | int | float, repeat: bool = True) -> Any:
        """Run `<name>.lua` atomically. `repeat` says that running it twice is the same as once."""
        text = script_text(name)

        async def run() -> Any:
            if name in self._sent:
                with suppress(exceptions.NoScriptError):
                    return await self.client.evalsha(_digest(text), 0, *args)
            answer = await self.client.eval(text, 0, *args)
            self._sent.add(name)
            return answer

        return await self.call(run, repeat=repeat)

    async def call(self, command: Callable[[], Awaitable[Any]], *, repeat: bool = True) -> Any:
        """One command within `timeout_s`; tried twice in that time when it may be and a connection broke.

        At most `CONNECTIONS` run at once. Those that wait for their turn give up together as soon as one
        finds the store silent.
        """
        asked = time.monotonic()
        async with self._turns:
            if self._silent_at > asked:
                raise unavailable(TimeoutError())
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await self._try(command, repeat)
            except (exceptions.TimeoutError, TimeoutError) as error:
                self._silent_at = time.monotonic()
                raise unavailable(error) from error
            except (exceptions.ConnectionError, OSError) as error:
                raise unavailable(error) from error
            except exceptions.ResponseError as error:
                if _refused(error):
                    raise unavailable(error) from error
                raise

    async def _try(self, command: Callable[[], Awaitable[Any]], repeat: bool) -> Any:
        while True:
            try:
                return await command()
            except exceptions.TimeoutError:
                raise
            except (exceptions.ConnectionError, OSError) as error:
                if _never_arrived(error):
                    await asyncio.sleep(KNOCK_S)
                elif repeat:
                    repeat = False
                else:
                    raise

    async def block(self, command: Callable[[Redis], Awaitable[Any]], block_s: float) -> Any:
        """One blocking read of at most `block_s`, on a connection of its own; a silent server is noticed."""
        try:
            async with asyncio.timeout(block_s + BLOCKING_SLACK_S):
                return await command(self.blocking)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise unavailable(error) from error
        except exceptions.ResponseError as error:
            if _refused(error):
                raise unavailable(error) from error
            raise


def unavailable(error: BaseException) -> StoreUnavailable:
    """The one error for every way the store can fail; the cause is chained, addresses stay out of the
    message.
    """
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM" in str(error)[:40]:
        return StoreUnavailable("The store is full; try again when some jobs have ended.", retry_after=SHORTLY)
    return StoreUnavailable(f"The store does not answer ({type(error).__name__}); try again.", retry_after=SOON)


def _never_arrived(error: BaseException) -> bool:
    """Whether the server has not seen the command: there was no connection to be had, or it is not open yet."""
    nobody_there = (ConnectionRefusedError, FileNotFoundError)
    loading = isinstance(error, exceptions.BusyLoadingError)
    return loading or isinstance(error, nobody_there) or isinstance(error.__context__, nobody_there)


def _refused(error: exceptions.ResponseError) -> bool:
    text = str(error)
    return isinstance(error, (exceptions.OutOfMemoryError, exceptions.ReadOnlyError)) or any(
        word in text[:200] for word in _REFUSALS
    )
