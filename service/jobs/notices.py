"""Who follows a job is woken when something happens to it, and is handed the previews that come meanwhile.

Of the many who follow jobs, one connection a process hears of every event and wakes those it concerns: a blocking read
a follower would need a connection each. A notice is only a hint: it carries no data, may be lost, and followers look
again on their own every few seconds. Previews come on channels of their own, one a job, heard while somebody follows
it. The store keeps nothing of what goes over a channel, neither in memory nor in its log; here the last few are kept
while the job is followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis import exceptions
from redis.asyncio.client import PubSub

from service.jobs import store_keys
from service.jobs.store import Store

log = logging.getLogger(__name__)

LISTEN_S = 5.0
RETRY_S = 0.5
PREVIEWS_KEPT = 8


class Previews:
    """The last previews of one followed job, in base64 by event id; `followers` look at them."""

    def __init__(self) -> None:
        self.followers = 0
        self.heard = asyncio.Event()
        self._kept: dict[str, str] = {}

    def add(self, event_id: str, picture: str) -> None:
        self._kept[event_id] = picture
        while len(self._kept) > PREVIEWS_KEPT:
            del self._kept[next(iter(self._kept))]

    def get(self, event_id: str) -> str | None:
        return self._kept.get(event_id)


class Wake(asyncio.Event):
    """Set whenever something may have happened to the job that its owner follows; the owner clears it."""

    def __init__(self, previews: Previews | None) -> None:
        super().__init__()
        self._previews = previews

    def preview(self, event_id: str) -> str | None:
        """The picture that came with this event, in base64, or None."""
        return None if self._previews is None else self._previews.get(event_id)

    def has_preview(self, event_id: str) -> bool:
        return self.preview(event_id) is not None


class Notices:
    """Wakes followers of jobs. The listener starts with the first follower and stops with `close`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followers: dict[str, set[Wake]] = {}
        self._previews: dict[str, Previews] = {}
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._channel: PubSub | None = None

    @asynccontextmanager
    async def follow(self, job_id: str, *, previews: bool = False) -> AsyncIterator[Wake]:
        """What is set whenever something may have happened to `job_id`, with the previews that come when asked for."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="notices")
        await self._heard(self._listening)
        shown = self._previews.setdefault(job_id, Previews()) if previews else None
        mine = Wake(shown)
        self._followers.setdefault(job_id, set()).add(mine)
        try:
            if shown is not None:
                await self._show(job_id, shown)
            yield mine
        finally:
            others = self._followers[job_id]
            others.discard(mine)
            if not others:
                del self._followers[job_id]
            if shown is not None:
                await self._hide(job_id, shown)

    async def close(self) -> None:
        """Stop listening and wake every follower."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
        self._wake_all()

    async def _heard(self, event: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._store.timeout_s):
                await event.wait()

    async def _show(self, job_id: str, shown: Previews) -> None:
        shown.followers += 1
        if shown.followers == 1 and self._channel is not None:
            with suppress(exceptions.RedisError, OSError):
                await self._channel.subscribe(store_keys.PREVIEW + job_id)
        if self._channel is not None:
            await self._heard(shown.heard)

    async def _hide(self, job_id: str, shown: Previews) -> None:
        shown.followers -= 1
        if shown.followers:
            return
        del self._previews[job_id]
        if self._channel is not None:
            with suppress(exceptions.RedisError, OSError):
                await self._channel.unsubscribe(store_keys.PREVIEW + job_id)

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
            await channel.subscribe(store_keys.NOTICES, *(store_keys.PREVIEW + job_id for job_id in self._previews))
            self._channel = channel
            try:
                self._listening.set()
                self._wake_all()
                while True:
                    message = await channel.get_message(timeout=LISTEN_S)
                    if message is None:
                        await self._check_alive(channel)
                    else:
                        self._take(message)
            finally:
                self._channel = None

    async def _check_alive(self, channel: PubSub) -> None:
        """A connection that went silent without an end would leave us deaf for ever: ask after each silence."""
        await channel.ping()
        message = await channel.get_message(timeout=self._store.timeout_s)
        if message is None:
            raise exceptions.TimeoutError("no answer to a ping")
        self._take(message)

    def _take(self, message: dict[str, str]) -> None:
        channel = message["channel"] or ""
        if channel == store_keys.NOTICES:
            if message["type"] == "message":
                self._wake(message["data"])
            return
        job_id = channel.removeprefix(store_keys.PREVIEW)
        shown = self._previews.get(job_id)
        if shown is None:
            return
        if message["type"] == "subscribe":
            shown.heard.set()
        elif message["type"] == "message":
            event_id, _, picture = message["data"].partition(" ")
            shown.add(event_id, picture)
            self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        for follower in self._followers.get(job_id, ()):
            follower.set()

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.set()
