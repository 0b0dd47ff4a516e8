"""What the owner of a job may ask: how it stands, what happens to it, to stop it, to erase it.

Events are written inside the atomic steps of `scripts/queue.lua`, so that a state and its event appear together. A
reader that names the last id it saw gets everything after it, then what happens, to the terminal event. Previews are
no part of it: the event only says that there was one, and who listens when it comes gets it (`notices`). A notice may
be lost, so `places` looks after all followed jobs every second.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from service.errors import NotFound
from service.jobs import store_keys
from service.jobs.notices import Notices, Wake
from service.jobs.places import Places
from service.jobs.schemas import TERMINAL, Event, JobRecord
from service.jobs.store import Store
from service.settings import Settings

PREVIEW_S = 0.25
GONE_OF = "of:"
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

    async def existed(self, job_id: str, tenant: str) -> bool:
        """Whether a job of this id was the tenant's and has ended, been erased or run out (the difference of
        410 and 404).
        """
        whose = await self._store.call(lambda: self._store.client.get(store_keys.GONE + job_id))
        return bool(whose == GONE_OF + tenant)

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
        last, position, settled, live = last_id or "0", -1, False, False
        following = self.notices.follow(job_id, previews=True)
        async with following as notice, self.places.watch(job_id, notice):
            while True:
                notice.clear()
                for event in await self.after(job_id, last):
                    last = event.id
                    if event.type == "queued":
                        position = _position_of(event)
                    yield await self._with_preview(event, notice, PREVIEW_S if live else 0.0)
                    if event.type in TERMINAL:
                        return
                place = await self._store.script("place", job_id)
                if not place or settled:
                    if place and place[2] == 0 and last_id is None:
                        ending = await self._ending(job_id)
                        if ending is not None:
                            yield ending
                    return
                settled, live = place[0] in TERMINAL, True
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

    async def _with_preview(self, event: Event, notice: Wake, patience_s: float) -> Event:
        """The event with its picture where that came to us, which may be a moment after the event was read."""
        if not event.data.get("preview"):
            return event
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not notice.has_preview(event.id):
                    await notice.wait()
                    notice.clear()
        data = {name: value for name, value in event.data.items() if name != "preview"}
        preview = notice.preview(event.id)
        return event.model_copy(update={"data": data if preview is None else {**data, "preview": preview}})

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
