"""Webhooks: tell a client's server that its job ended, without letting clients steer us into our own network.

Signatures, headers and payload follow Standard Webhooks 1.0 (standardwebhooks.com). The address of a receiver
is checked when we connect, and the connection goes to exactly the address that was checked, so a name that
resolves differently a moment later (DNS rebinding) gains nothing. Redirects are never followed, the reply is
never read, proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import logging
import random
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore

from service.errors import InvalidRequest
from service.jobs.schemas import JobError, JobResult, JobSpec, Status

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
ATTEMPT_TIMEOUT_S = 10.0
MAX_WAITING = 1000
RETRIED = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenTarget(InvalidRequest):
    """The receiver's address is not on the public internet, or the URL is not one we call."""

    code, title = "forbidden-webhook-url", "This webhook address is not allowed"


def is_public(address: str) -> bool:
    """Whether `address` is a public unicast address, looking through IPv4 wrapped in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.teredo is not None or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def check_url(url: str, *, allow_private: bool = False) -> None:
    """Refuse what can be seen to be wrong before any lookup. Raises ForbiddenTarget."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ForbiddenTarget("a webhook URL has only printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForbiddenTarget(f"the webhook URL cannot be read: {error}") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ForbiddenTarget("a webhook URL starts with https://")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ForbiddenTarget("a webhook URL names a host and carries no user or password")
    if port is not None and port < 1024 and port not in (80, 443):
        raise ForbiddenTarget(f"a webhook URL does not use port {port}")


class VettedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses: resolves once, checks every answer, connects to a checked one."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def resolve(self, host: str, port: int) -> list[str]:
        """Addresses of `host`, all vetted. Raises ForbiddenTarget, or OSError when it does not resolve."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise ForbiddenTarget("the webhook host does not resolve to public addresses only")
        return addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.resolve(host, port)
        failure: Exception = OSError(f"{host} has no address")
        for address in addresses[:3]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenTarget("webhooks are not sent to local sockets")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


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


def message(
    spec: JobSpec, status: Status, result: JobResult | None, error: JobError | None
) -> Message | None:
    """What to send when a job ends, or None when its client asked for nothing."""
    if spec.webhook_url is None:
        return None
    path = f"/v1/try-ons/{spec.id}"
    data: dict[str, Any] = {
        "id": spec.id,
        "status": status,
        "metadata": spec.metadata,
        "error": error.model_dump() if error else None,
        "result": result.model_dump(include={"content_type", "width", "height"}) if result else None,
        "timings": result.stages if result else {},
        "links": {"self": path, "image": f"{path}/image" if result else None},
    }
    event = {"type": f"try_on.{status}", "timestamp": datetime.now(UTC).isoformat(), "data": data}
    body = json.dumps(event, separators=(",", ":")).encode()
    return Message(f"msg_{spec.id}_{status}", spec.webhook_url, body)


class WebhookSender:
    """Delivers messages with retries from memory; `close` gives what is under way a moment to end.

    Deliveries still waiting for a retry when the worker exits are dropped and counted in the log: a webhook
    is a hint, the job's record is the truth.
    """

    def __init__(
        self,
        secret: str,
        *,
        allow_private: bool = False,
        delays: tuple[float, ...] = RETRY_DELAYS_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._key = signing_key(secret)
        self._allow_private = allow_private
        self._delays = delays
        self._jitter = jitter
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=16,
            max_keepalive_connections=0,
            network_backend=VettedBackend(allow_private=allow_private),
        )
        self._tasks: set[asyncio.Task[bool]] = set()

    def send(self, what: Message) -> asyncio.Task[bool] | None:
        """Start delivering; the task's result says whether the receiver accepted it."""
        if len(self._tasks) >= MAX_WAITING:
            log.warning("webhook dropped: too many deliveries are waiting", extra={"message_id": what.id})
            return None
        task = asyncio.create_task(self.deliver(what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def deliver(self, what: Message) -> bool:
        """Post until a 2xx, a 410, a forbidden address or the last delay; True only for the 2xx."""
        for delay in (*self._delays, None):
            try:
                check_url(what.url, allow_private=self._allow_private)
                status = await self._post(what)
            except ForbiddenTarget as error:
                log.warning("webhook refused: %s", error.detail, extra={"message_id": what.id})
                return False
            except RETRIED as error:
                outcome = type(error).__name__
            else:
                if 200 <= status < 300:
                    return True
                if status == 410:
                    log.info("webhook receiver is gone", extra={"message_id": what.id})
                    return False
                outcome = f"HTTP {status}"
            if delay is None:
                log.warning("webhook given up: %s", outcome, extra={"message_id": what.id})
                return False
            await asyncio.sleep(delay * (0.5 + self._jitter()))
        return False

    async def _post(self, what: Message) -> int:
        now = int(time.time())
        headers = [
            ("content-type", "application/json"),
            ("user-agent", "changeroom-webhooks/1"),
            ("webhook-id", what.id),
            ("webhook-timestamp", str(now)),
            ("webhook-signature", signature(self._key, what.id, now, what.body)),
        ]
        headers.insert(0, ("host", urlsplit(what.url).netloc))
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            async with self._pool.stream("POST", what.url, headers=headers, content=what.body) as response:
                return int(response.status)

    async def close(self, grace_s: float = 2.0) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            log.warning("webhooks dropped at exit: %d", len(self._tasks))
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.aclose()
