"""Bounds on what a client may send and how slowly: a body limit, an upload budget, and a connection guard.

uvicorn alone accepts bodies of any size and keeps silent or trickling connections for ever. `BodyLimit`
refuses by Content-Length before the first byte and counts the bytes of chunked bodies; `guarded_protocol`
closes connections whose headers are late, whose bodies arrive below a floor rate, or whose reader has stopped
reading.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import InvalidRequest, PayloadTooLarge, QueueFull, ServiceError
from service.gateway import problems
from service.settings import Settings

FLOOR_BYTES_PER_S = 1024
BUDGET_BODIES = 8
LINGER_S = 2.0
SCOPE_KEY = "changeroom.upload"


class UploadBudget:
    """Bytes of bodies held by all requests of this process together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Upload:
    """What one request holds of the budget; `release` may be called as soon as its pictures are stored."""

    def __init__(self, budget: UploadBudget) -> None:
        self._budget = budget
        self.received = 0

    def add(self, count: int) -> None:
        """Raises QueueFull when all uploads together are over the budget."""
        if self._budget.held + count > self._budget.limit:
            raise QueueFull("Too many uploads at the same time; try again shortly.", code="uploads-full", retry_after=2)
        self._budget.held += count
        self.received += count

    def release(self) -> None:
        self._budget.held -= self.received
        self.received = 0


def release_upload(request: Request) -> None:
    """Give back the upload budget of a request whose body has been dealt with."""
    upload = request.scope.get(SCOPE_KEY)
    if isinstance(upload, Upload):
        upload.release()


class BodyLimit:
    """ASGI middleware: bodies over `body_limit_bytes` are a 413, before they are read where possible."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limit = settings.body_limit_bytes
        self._budget = UploadBudget(BUDGET_BODIES * settings.body_limit_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await problems.response(refusal, Request(scope))(scope, receive, send)
            return
        upload = Upload(self._budget)
        scope[SCOPE_KEY] = upload
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                total += size
                if total > self._limit:
                    raise self._too_large()
                if size:
                    upload.add(size)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            upload.release()

    def _refusal(self, scope: Scope) -> ServiceError | None:
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit():
                    return InvalidRequest("Content-Length must be a number.", code="invalid-header")
                if len(value) > 15 or int(value) > self._limit:
                    return self._too_large()
        return None

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"A request may have at most {self._limit // 2**20 or 1} MB; send smaller or fewer pictures.",
            code="body-too-large",
        )


def guarded_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with deadlines; pass it as `http=` to uvicorn.Config."""

    class Guarded(_GuardedProtocol):
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_idle_timeout_s

    return Guarded


class _GuardedProtocol(HttpToolsProtocol):
    """One timer a connection: for headers, body window or lingering upload; one for a stalled reader."""

    header_timeout_s: float
    body_timeout_s: float

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _window_bytes = 0
    _in_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_message and self._is_idle() and not self.timeout_keep_alive_task:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = True
        self._await_headers()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._window_bytes = 0
        self._arm(self.body_timeout_s, self._body_window)

    def on_body(self, body: bytes) -> None:
        self._window_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and self._is_idle() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._arm(min(LINGER_S, self.body_timeout_s), self._close)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.body_timeout_s, self._abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _arm(self, seconds: float, action: Any) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, action)

    def _await_headers(self) -> None:
        """Bytes that do not make a request, such as empty lines, never move an armed deadline."""
        if self._timer is None and not self.transport.is_closing():
            self._arm(self.header_timeout_s, self._headers_late)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _headers_late(self) -> None:
        self._refuse("The request headers did not arrive in time.")

    def _body_window(self) -> None:
        """Every window must bring its share of bytes, unless it is we who do not read them."""
        paused = self.flow is not None and self.flow.read_paused
        if paused or self._window_bytes >= FLOOR_BYTES_PER_S * self.body_timeout_s:
            self._window_bytes = 0
            self._arm(self.body_timeout_s, self._body_window)
            return
        self._refuse("The request body arrived too slowly.")

    def send_400_response(self, msg: str) -> None:
        self._say(InvalidRequest(f"This is not HTTP/1.1: {msg}", code="invalid-http"))
        self._close()

    def _refuse(self, detail: str) -> None:
        if self.transport.is_closing():
            return
        idle = self._is_idle()
        if (idle and self._in_message) or (not idle and not self.cycle.response_started):
            self._say(problems.RequestTimeout(detail))
        self._close()

    def _say(self, error: ServiceError) -> None:
        """A problem for a request that never reached the application."""
        body = json.dumps(problems.of_error(error), separators=(",", ":")).encode()
        phrase = HTTPStatus(error.status).phrase
        self.transport.write(
            f"HTTP/1.1 {error.status} {phrase}\r\n"
            f"content-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n".encode()
            + body
        )

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _abort(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
