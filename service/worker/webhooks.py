"""Webhooks: tell a client's server that its job ended.

Signatures, headers and payload follow Standard Webhooks 1.0 (standardwebhooks.com); a job that came in FASHN's shape
is told in FASHN's, `{id, status, output, error}`, under the same signature. What is due lives in the store, written in
the same step as the end of the job, so that no crash loses it; any worker delivers it. Redirects are never followed,
the reply is never read, proxies of the environment are not used, and `egress` keeps the connection out of private
networks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import httpcore

from service.egress import ForbiddenTarget, VettedBackend, check_url
from service.errors import Gone, InvalidRequest, StoreUnavailable
from service.jobs.blobs import BlobStore
from service.jobs.fashn_words import prediction
from service.jobs.queue import JobQueue
from service.jobs.schemas import INLINE, TERMINAL, JobRecord
from service.jobs.words import Words

log = logging.getLogger(__name__)

# As Standard Webhooks recommends: soon, then rarer, for most of a day.
RETRY_DELAYS_S = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
ATTEMPT_TIMEOUT_S = 10.0
HOLD_S = 30.0
POLL_S = 1.0
AT_ONCE = 16
RETRIED = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)

Answer = Literal["accepted", "refused", "failed"]


def signing_key(secret: str) -> bytes:
    """The HMAC key of a `whsec_<base64>` secret. Raises InvalidRequest unless it has 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not 24 <= len(key) <= 64:
        raise InvalidRequest("the webhook secret must be whsec_ and the base64 of 24 to 64 random bytes")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` value: HMAC-SHA256 over `id.timestamp.body` (Standard Webhooks, symmetric)."""
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


@dataclass(frozen=True)
class Message:
    """One event for one receiver. `id` is the same in every retry, so a receiver can drop repeats."""

    id: str
    url: str
    body: bytes


def message(record: JobRecord, picture: bytes = b"") -> Message | None:
    """What to send about an ended job, in the shape of the API it came by, or None when its client asked for nothing.

    `picture` is the finished one, needed where `wants_picture`.
    """
    spec = record.spec
    if spec.webhook_url is None or record.status not in TERMINAL:
        return None
    event = _event(record) if spec.webhook_output is None else prediction(record, _output(record, picture))
    return Message(f"msg_{spec.id}", spec.webhook_url, json.dumps(event, separators=(",", ":")).encode())


def wants_picture(record: JobRecord) -> bool:
    """Whether the receiver is sent the picture itself."""
    return record.spec.webhook_output == INLINE and record.result is not None


def _output(record: JobRecord, picture: bytes) -> str | None:
    """FASHN's output: the signed address of the picture, or the picture as a data: URL."""
    if not wants_picture(record) or record.result is None:
        return record.spec.webhook_output
    return f"data:{record.result.content_type};base64,{base64.b64encode(picture).decode()}"


def _event(record: JobRecord) -> dict[str, Any]:
    """Our own shape, as Standard Webhooks says."""
    spec, result, error = record.spec, record.result, record.error
    path = f"/v1/try-ons/{spec.id}"
    data: dict[str, Any] = {
        "id": spec.id,
        "status": record.status,
        "metadata": spec.metadata,
        "error": error.model_dump() if error else None,
        "result": result.model_dump(include={"content_type", "width", "height"}) if result else None,
        "timings": result.stages if result else {},
        "links": {"self": path, "image": f"{path}/image" if result else None},
    }
    ended = datetime.fromtimestamp(record.finished_at or time.time(), UTC).isoformat()
    return {"type": f"try_on.{record.status}", "timestamp": ended, "data": data}


class WebhookSender:
    """Posts one message once."""

    def __init__(self, secret: str, *, allow_private: bool = False) -> None:
        self._key = signing_key(secret)
        self._allow_private = allow_private
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=AT_ONCE,
            max_keepalive_connections=0,
            network_backend=VettedBackend(allow_private=allow_private),
        )

    async def send(self, what: Message) -> Answer:
        """accepted (2xx), refused (410 or a forbidden address: never again), or failed."""
        try:
            check_url(what.url, allow_private=self._allow_private)
            status = await self._post(what)
        except ForbiddenTarget as error:
            log.warning("webhook refused: %s", error.detail, extra={"message_id": what.id})
            return "refused"
        except RETRIED as error:
            log.info("webhook failed: %s", type(error).__name__, extra={"message_id": what.id})
            return "failed"
        if 200 <= status < 300:
            return "accepted"
        log.info("webhook answered with %d", status, extra={"message_id": what.id})
        return "refused" if status == 410 else "failed"

    async def _post(self, what: Message) -> int:
        now = int(time.time())
        headers = [
            ("host", urlsplit(what.url).netloc),
            ("content-type", "application/json"),
            ("user-agent", "changeroom-webhooks/1"),
            ("webhook-id", what.id),
            ("webhook-timestamp", str(now)),
            ("webhook-signature", signature(self._key, what.id, now, what.body)),
        ]
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            async with self._pool.stream("POST", what.url, headers=headers, content=what.body) as response:
                return int(response.status)

    async def close(self) -> None:
        await self._pool.aclose()


class WebhookDelivery:
    """Takes what is due from the store and delivers it, with growing pauses and jitter between tries."""

    def __init__(
        self,
        queue: JobQueue,
        sender: WebhookSender,
        blobs: BlobStore,
        words: Words,
        *,
        delays: tuple[float, ...] = RETRY_DELAYS_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._blobs = blobs
        self._words = words
        self._delays = delays
        self._jitter = jitter

    async def run_forever(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                free = AT_ONCE - len(under_way)
                for job_id, tries in await self._due(free) if free else ():
                    task = asyncio.create_task(self._deliver(job_id, tries))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(POLL_S)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _due(self, limit: int) -> list[tuple[str, int]]:
        try:
            return await self._queue.webhooks.due(limit=limit, hold_s=HOLD_S)
        except StoreUnavailable:
            return []

    async def _deliver(self, job_id: str, tries: int) -> None:
        try:
            record = await self._queue.owner.get(job_id)
            what = None if record is None else await self._message(await self._words.open_record(record))
            answer = await self._sender.send(what) if what is not None else "refused"
            if answer == "failed" and tries <= len(self._delays):
                pause = self._delays[tries - 1] * (0.5 + self._jitter())
                await self._queue.webhooks.settle(job_id, retry_in_s=pause)
                return
            if answer == "failed":
                log.warning("webhook given up after %d tries", tries, extra={"job_id": job_id})
            await self._queue.webhooks.settle(job_id)
        except Gone:
            log.info("webhook of an erased job is dropped", extra={"job_id": job_id})
            with suppress(StoreUnavailable):
                await self._queue.webhooks.settle(job_id)
        except StoreUnavailable:
            log.info("webhook left to the next try", extra={"job_id": job_id})

    async def _message(self, record: JobRecord) -> Message | None:
        """None as well when the picture it should carry has been erased. Raises StoreUnavailable."""
        if record.result is None or not wants_picture(record):
            return message(record)
        try:
            return message(record, await self._blobs.get(record.result.blob))
        except Gone:
            return None
