"""What happened to a job, in order, for anyone who follows it and for those who lost the connection.

Events are written inside the atomic steps of `queue.lua`, so that a state and its event appear
together. A reader that names the last id it saw gets everything after it, then what happens, to the
terminal event.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from service.jobs import keys
from service.jobs.schemas import TERMINAL, Event
from service.jobs.store import Store

FOLLOW_S = 5.0
POSITION_S = 1.0
_EVENT_ID = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


class EventLog:
    """Reads the event streams of jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def subscribe(self, job_id: str, last_id: str | None = None) -> AsyncIterator[Event]:
        """Replay after `last_id` (None: from the start), then follow until the terminal event or the
        job is gone.

        While the job waits, a `queued` event with its new position comes whenever that changes; it
        carries the last written id, so that reconnecting after it loses nothing. Raises ValueError for
        a malformed `last_id`, StoreUnavailable when the store goes.
        """
        if last_id is not None and not _EVENT_ID.fullmatch(last_id):
            raise ValueError("a last event id looks like 1700000000000-0")
        last, queued, position = last_id or "0", False, -1
        while True:
            wait = POSITION_S if queued else FOLLOW_S
            for event in await self._read(job_id, last, wait):
                last, queued = event.id, event.type == "queued"
                if queued:
                    position = _position_of(event)
                yield event
                if event.type in TERMINAL:
                    return
            record = await self._store.script("read", job_id)
            if not record:
                return
            fields, place = dict(zip(record[0][::2], record[0][1::2], strict=True)), record[1]
            if fields["status"] in TERMINAL and not await self._read(job_id, last, 0):
                return
            queued = fields["status"] == "queued"
            if queued and isinstance(place, int) and place != position:
                position = place
                yield Event(id=last, type="queued", data={"status": "queued", "position": place})

    async def _read(self, job_id: str, after: str, wait_s: float) -> list[Event]:
        stream = keys.EVENTS + job_id
        if wait_s <= 0:
            answer = await self._store.call(lambda: self._store.client.xread({stream: after}))
        else:

            async def follow(client: Redis) -> Any:
                return await client.xread({stream: after}, block=int(wait_s * 1000))

            answer = await self._store.block(follow, wait_s)
        return [_event(entry, fields) for entry, fields in (answer[0][1] if answer else ())]


def _event(entry: str, fields: dict[str, str]) -> Event:
    return Event.model_validate({"id": entry, "type": fields["type"], "data": json.loads(fields["data"])})


def _position_of(event: Event) -> int:
    position = event.data.get("position")
    return int(position) if isinstance(position, (int, float)) else -1
