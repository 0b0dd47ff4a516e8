"""An edit as OpenAI streams it: `image_edit.partial_image` while it is made, `image_edit.completed` at the end.

Partial images are the small JPEG previews of the denoising steps, as evenly spread as the steps allow. What goes wrong
after the stream has begun comes as an event with an `error`, which OpenAI's clients raise.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.gateway.http import sse
from service.gateway.http.dialects import members
from service.gateway.routes.openai_answers import failure, usage
from service.gateway.routes.openai_form import SAFETY_IDENTIFIER, Wish
from service.gateway.routes.state import Gateway
from service.gateway.work.api_keys import Caller
from service.jobs.schemas import TERMINAL, Event, JobRecord


class EditStream(StreamingResponse):
    """The answer as a stream. A client that leaves before its end has its job canceled unless it is `kept`."""

    def __init__(self, parts: Gateway, caller: Caller, job_id: str, wish: Wish, *, kept: bool) -> None:
        super().__init__(self._events(caller), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._parts = parts
        self._job_id = job_id
        self._wish = wish
        self._kept = kept
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._ended and not self._kept:
                self._parts.departures.abandon(self._job_id)

    async def _events(self, caller: Caller) -> AsyncIterator[bytes]:
        parts, wish = self._parts, self._wish
        followed = sse.followed(parts.queue.owner.subscribe(self._job_id), parts.tryons.stopping)
        told = 0
        try:
            async with aclosing(followed):
                async for event in followed:
                    if event is None:
                        yield sse.KEEP_ALIVE
                    elif event.type in TERMINAL:
                        break
                    elif _due(event, told, wish.partial_images or 0):
                        yield _encoded(_partial(event, told, wish))
                        told += 1
            record = await parts.tryons.get(caller, self._job_id)
            self._ended = True
            yield _encoded(await _completed(parts, record, wish))
        except ServiceError as error:
            self._ended = True
            yield f"event: error\ndata: {json.dumps(members(error, 'openai'))}\n\n".encode()


def _due(event: Event, told: int, wanted: int) -> bool:
    """Whether this step's preview is the next partial image."""
    step, steps = event.data.get("step"), event.data.get("steps")
    if told >= wanted or not event.data.get("preview") or not isinstance(step, int) or not isinstance(steps, int):
        return False
    return step * (wanted + 1) // max(1, steps) > told


def _partial(event: Event, index: int, wish: Wish) -> dict[str, Any]:
    return {
        "type": "image_edit.partial_image",
        "partial_image_index": index,
        "b64_json": event.data["preview"],
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": "jpeg",
        "quality": wish.quality,
        "size": wish.size,
    }


async def _completed(parts: Gateway, record: JobRecord, wish: Wish) -> dict[str, Any]:
    """Raises ServiceError for a job without a picture."""
    if record.status != "succeeded" or record.result is None:
        raise failure(record)
    data, _ = await parts.tryons.picture(record)
    named = record.spec.metadata.get(SAFETY_IDENTIFIER)
    return {
        "type": "image_edit.completed",
        "b64_json": base64.b64encode(data).decode(),
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": record.spec.output_format,
        "quality": wish.quality,
        "size": f"{record.result.width}x{record.result.height}",
        "usage": usage(record).model_dump(),
        **({} if named is None else {SAFETY_IDENTIFIER: named}),
    }


def _encoded(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
