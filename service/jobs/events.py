"""What happened to a job, in order, for anyone who follows it and for those who lost the connection.

Events are written inside the atomic steps of `queue.lua`, so that a state and its event appear
together. A reader that names the last id it saw gets everything after it, then what happens, to the
terminal event.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress

from service.jobs import keys
from service.jobs.notices import Notices
from service.jobs.records import record_from_hash
from service.jobs.schemas import TERMINAL, Event
from service.jobs.store import Store

FOLLOW_S = 5.0
POSITION_S = 1.0
_EVENT_ID = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


class EventLog:
    """Reads the event streams of jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.notices = Notices(store)

    async def close(self) -> None:
        """Stop listening; followers end with StoreUnavailable or their last event."""
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
        async with self.notices.follow(job_id) as notice:
            while True:
                notice.clear()
                for event in await self._read(job_id, last):
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
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POSITION_S if queued else FOLLOW_S):
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

    async def _read(self, job_id: str, after: str) -> list[Event]:
        stream = keys.EVENTS + job_id
        answer = await self._store.call(lambda: self._store.client.xread({stream: after}))
        return [_event(entry, fields) for entry, fields in (answer[0][1] if answer else ())]


def _event(entry: str, fields: dict[str, str]) -> Event:
    return Event.model_validate({"id": entry, "type": fields["type"], "data": json.loads(fields["data"])})


def _position_of(event: Event) -> int:
    position = event.data.get("position")
    return int(position) if isinstance(position, (int, float)) else -1
