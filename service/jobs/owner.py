"""What the owner of a job may ask: how it stands, what happens to it, to stop it, to erase it.

Events are written inside the atomic steps of `scripts/queue.lua`, so that a state and its event appear together. A
reader that names the last id it saw gets everything after it, then what happens, to the terminal event. Of the many
who follow jobs, one connection a process hears of every event and wakes those it concerns: a blocking read a follower
would need a connection each. Such a notice is only a hint: it carries no data and may be lost, so `places` looks after
all followed jobs every second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import exceptions
from redis.asyncio.client import PubSub

from service.errors import NotFound
from service.jobs import store_keys
from service.jobs.places import Places
from service.jobs.schemas import TERMINAL, Event, JobRecord
from service.jobs.store import Store
from service.settings import Settings

log = logging.getLogger(__name__)

LISTEN_S = 5.0
RETRY_S = 0.5
_EVENT_ID = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


class Owner:
    """One job, for the caller who made it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self.event_log = EventLog(store)

    async def get(self, job_id: str) -> JobRecord | None:
        """The job as it stands, with its place in the queue (0 is next), or None."""
        answer = await self._store.script("read", job_id)
        if not answer:
            return None
        return record_from_hash(*answer)

    async def existed(self, job_id: str) -> bool:
        """Whether a job of this id was here and has ended, been erased or run out (the difference of
        410 and 404).
        """
        return bool(await self._store.call(lambda: self._store.client.exists(store_keys.GONE + job_id)))

    async def cancel(self, job_id: str) -> JobRecord:
        """Ask for a job to stop: a queued one is canceled at once, a running one at its next step.

        Returns the record after; a terminal job is returned as it is. Raises NotFound.
        """
        await self._store.script("cancel", job_id, self._settings.result_ttl_s)
        record = await self.get(job_id)
        if record is None:
            raise NotFound("There is no such job.")
        return record

    async def erase(self, job_id: str) -> JobRecord | None:
        """Remove a job, its events and its idempotency key at once; a running one is fenced off and stopped.

        Returns the record before, so that its blobs can be erased (`blobs.blobs_of`), or None.
        """
        last = await self._store.script("erase", job_id, self._settings.result_ttl_s)
        return record_from_hash(last, None) if last else None

    def subscribe(self, job_id: str, last_id: str | None = None) -> AsyncIterator[Event]:
        """Events of a job after `last_id`, then as they happen, to the terminal one (see `EventLog`)."""
        return self.event_log.subscribe(job_id, last_id)

    async def told_all(self, job_id: str, last_id: str) -> bool:
        """Whether a job has ended and its reader, who saw `last_id`, has nothing left to be told."""
        record = await self.get(job_id)
        ended = record is None or record.status in TERMINAL
        return ended and not await self.event_log.after(job_id, last_id)

    async def ended(self, job_id: str) -> JobRecord | None:
        """The record once the job is terminal, None once it is gone; cheaper than following its events.

        Raises StoreUnavailable.
        """
        events = self.event_log
        async with events.notices.follow(job_id) as notice, events.places.watch(job_id, notice):
            while True:
                notice.clear()
                record = await self.get(job_id)
                if record is None or record.status in TERMINAL:
                    return record
                await notice.wait()


class EventLog:
    """Reads the event streams of jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.notices = Notices(store)
        self.places = Places(store)

    async def close(self) -> None:
        """Stop listening; followers end with StoreUnavailable or their last event."""
        await self.places.close()
        await self.notices.close()

    async def subscribe(self, job_id: str, last_id: str | None = None) -> AsyncIterator[Event]:
        """Replay after `last_id` (None: from the start), then follow until the terminal event or the
        job is gone.

        While the job waits, a `queued` event with its new position comes whenever that changes; it
        carries the last written id, so that reconnecting after it loses nothing. Raises ValueError for
        a malformed `last_id`, StoreUnavailable when the store goes.
        """
        if last_id is not None and not _EVENT_ID.fullmatch(last_id):
            raise ValueError("a last event id looks like 1700000000000-0")
        last, position, settled = last_id or "0", -1, False
        async with self.notices.follow(job_id) as notice, self.places.watch(job_id, notice):
            while True:
                notice.clear()
                for event in await self.after(job_id, last):
                    last = event.id
                    if event.type == "queued":
                        position = _position_of(event)
                    yield event
                    if event.type in TERMINAL:
                        return
                place = await self._store.script("place", job_id)
                if not place or settled:
                    if place and place[2] == 0 and last_id is None:
                        ending = await self._ending(job_id)
                        if ending is not None:
                            yield ending
                    return
                settled = place[0] in TERMINAL
                queued = place[0] == "queued"
                if queued and place[1] not in (-1, position):
                    position = place[1]
                    yield Event(id=last, type="queued", data={"status": "queued", "position": position})
                if not settled:
                    await notice.wait()

    async def _ending(self, job_id: str) -> Event | None:
        """The terminal event of a job whose events are gone, from its record; None when that went too."""
        answer = await self._store.script("read", job_id)
        record = record_from_hash(*answer) if answer else None
        if record is None:
            return None
        data: dict[str, object] = {"status": record.status}
        for name, value in (("error", record.error), ("result", record.result)):
            if value is not None:
                data[name] = value.model_dump()
        at = int((record.finished_at or 0) * 1000)
        return Event.model_validate({"id": f"{at}-0", "type": record.status, "data": data})

    async def after(self, job_id: str, last_id: str) -> list[Event]:
        """Every written event of a job after `last_id`, none where they are gone. Raises StoreUnavailable."""
        stream = store_keys.EVENTS + job_id
        answer = await self._store.call(lambda: self._store.client.xread({stream: last_id}))
        return [_event(entry, fields) for entry, fields in (answer[0][1] if answer else ())]


def _event(entry: str, fields: dict[str, str]) -> Event:
    return Event.model_validate({"id": entry, "type": fields["type"], "data": json.loads(fields["data"])})


def _position_of(event: Event) -> int:
    position = event.data.get("position")
    return int(position) if isinstance(position, (int, float)) else -1


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
            await channel.subscribe(store_keys.NOTICES)
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


def record_from_hash(names_and_values: Sequence[str], position: int | None) -> JobRecord | None:
    """The record, or None for a reservation that is no job yet.

    `names_and_values` is the hash as scripts answer it, flat; its times are milliseconds.
    """
    fields = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))
    if fields["status"] == "reserved":
        return None
    document: dict[str, Any] = {
        "status": fields["status"],
        "attempts": int(fields["attempts"]),
        "stage": fields.get("stage") or None,
        "step": int(fields.get("step", 0)),
        "steps": int(fields.get("steps", 0)),
        "position": position if isinstance(position, int) else None,
        "started_at": _seconds(fields.get("started")),
        "finished_at": _seconds(fields.get("finished")),
        "cancel_requested": fields["cancel"] == "1",
        "spec": _parse(fields["spec"]),
        "error": _parse(fields.get("error")),
        "result": _parse(fields.get("result")),
    }
    return JobRecord.model_validate(document)


def _seconds(milliseconds: str | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None


def _parse(text: str | None) -> Any:
    return json.loads(text) if text else None
