"""A job's events as Server-Sent Events (WHATWG HTML, section 9.2), resumable by Last-Event-ID."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from service.errors import StoreUnavailable
from service.jobs.schemas import TERMINAL, Event, JobRecord

KEEP_ALIVE_S = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
RETRY_MS = 1000


def encode(event: Event, data: dict[str, Any]) -> bytes:
    """One event; JSON never holds a raw newline, so one data line is enough."""
    body = json.dumps(data, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.type}\ndata: {body}\n\n".encode()


async def followed(events: AsyncIterator[Event], stopping: asyncio.Event) -> AsyncGenerator[Event | None, None]:
    """Every event as it comes, None whenever it was quiet for a while; ends with them, the store or this process."""
    pending: asyncio.Future[Event] | None = None
    stop = asyncio.create_task(stopping.wait())
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            watched: set[asyncio.Future[Any]] = {pending, stop}
            await asyncio.wait(watched, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            if not pending.done():
                yield None
                continue
            finished, pending = pending, None
            try:
                event = finished.result()
            except (StopAsyncIteration, StoreUnavailable):
                return
            yield event
    finally:
        stop.cancel()
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def stream(
    events: AsyncIterator[Event],
    read: Callable[[], Awaitable[JobRecord | None]],
    view: Callable[[JobRecord], dict[str, Any]],
    stopping: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Bytes of the stream: every event, the whole try-on in the last one, comments while it is quiet.

    When the store goes or this process stops, the stream just ends: an event source reconnects and resumes
    after the last id.
    """
    yield f"retry: {RETRY_MS}\n\n".encode()
    async with aclosing(followed(events, stopping)) as following:
        async for event in following:
            if event is None:
                yield KEEP_ALIVE
            elif event.type not in TERMINAL:
                yield encode(event, dict(event.data))
            else:
                with suppress(StoreUnavailable):
                    record = await read()
                    yield encode(event, {"status": event.type} | ({} if record is None else {"try_on": view(record)}))
                return
