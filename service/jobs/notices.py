"""Who waits for which job: one connection a process hears of every event and wakes those it concerns.

A blocking read a follower would need a connection each. A notice is only a hint: it carries no data, may
be lost, and followers look again on their own every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis import exceptions
from redis.asyncio.client import PubSub

from service.jobs import keys
from service.jobs.store import Store

log = logging.getLogger(__name__)

LISTEN_S = 5.0
RETRY_S = 0.5


class Notices:
    """Wakes followers of jobs. The listener starts with the first follower and stops with `close`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something may have happened to `job_id`; the follower clears it."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="notices")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._store.timeout_s):
                await self._listening.wait()
        mine = asyncio.Event()
        self._followers.setdefault(job_id, set()).add(mine)
        try:
            yield mine
        finally:
            others = self._followers[job_id]
            others.discard(mine)
            if not others:
                del self._followers[job_id]

    async def close(self) -> None:
        """Stop listening and wake every follower."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
        self._wake_all()

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (exceptions.RedisError, OSError) as error:
                log.warning("notices interrupted", extra={"cause": type(error).__name__})
            self._listening.clear()
            self._wake_all()
            await asyncio.sleep(RETRY_S)

    async def _listen_once(self) -> None:
        async with self._store.blocking.pubsub() as channel:
            await channel.subscribe(keys.NOTICES)
            await channel.get_message(timeout=self._store.timeout_s)
            self._listening.set()
            self._wake_all()
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=LISTEN_S)
                if message is None:
                    await self._check_alive(channel)
                elif message["type"] == "message":
                    self._wake(message["data"])

    async def _check_alive(self, channel: PubSub) -> None:
        """A connection that went silent without an end would leave us deaf for ever: ask after each silence."""
        await channel.ping()
        message = await channel.get_message(timeout=self._store.timeout_s)
        if message is None:
            raise exceptions.TimeoutError("no answer to a ping")
        if message["type"] == "message":
            self._wake(message["data"])

    def _wake(self, job_id: str) -> None:
        for follower in self._followers.get(job_id, ()):
            follower.set()

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.set()
