"""Bounds on the bodies a client may send: a limit of one body, and a budget of all uploads together.

uvicorn alone accepts bodies of any size. `BodyLimit` refuses by Content-Length before the first byte and counts the
bytes of chunked bodies. What is being received is counted as it comes, not as it was announced: the beginning of a body
in memory, the rest on disk, where the readers of `bodies` put it. A body that is whole is counted in memory, for as
long as we need it. While there is no room, uploads that fell behind `PRESSED_BYTES_PER_S` make some for the others, the
farthest behind first, so that nobody holds the budget by sending slowly.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, PayloadTooLarge, QueueFull, ServiceError
from service.gateway.http import arrivals, problems
from service.gateway.http.arrivals import Arrival
from service.retry_after import SHORTLY
from service.settings import Settings

MEMORY_BODIES = 8
DISK_BODIES = 20
IN_MEMORY_BYTES = 2 << 20
"""What a body that is being received holds in memory at most; `bodies` keeps to it."""
PATIENCE_S = 5.0
SCOPE_KEY = "changeroom.upload"

Where = Literal["memory", "disk"]


class UploadBudget:
    """Bytes that the bodies of all requests of this process hold together, in memory and on disk."""

    def __init__(self, body_limit: int) -> None:
        self.limit: dict[Where, int] = {"memory": MEMORY_BODIES * body_limit, "disk": DISK_BODIES * body_limit}
        self.held: dict[Where, int] = {"memory": 0, "disk": 0}
        self.uploads: set[Upload] = set()

    def take(self, where: Where, count: int, asking: Upload) -> None:
        """Raises QueueFull when there is no room and nobody to make some."""
        while self.held[where] + count > self.limit[where]:
            slowest = self._slowest(where, asking)
            if slowest is None:
                raise uploads_full()
            slowest.end()
        self.held[where] += count

    def _slowest(self, where: Where, asking: Upload) -> Upload | None:
        now = asyncio.get_running_loop().time()
        behind = {
            upload: upload.arrival.pressed.lag(now)
            for upload in self.uploads
            if upload is not asking and upload.arrival is not None and not upload.arrival.whole and upload.held[where]
        }
        slowest = max(behind, key=lambda upload: behind[upload], default=None)
        return slowest if slowest is not None and behind[slowest] >= PATIENCE_S else None


class Upload:
    """What one request holds of the budget; `release` may be called as soon as its pictures are stored."""

    def __init__(self, budget: UploadBudget, arrival: Arrival | None = None) -> None:
        self.arrival = arrival
        self.received = 0
        self.held: dict[Where, int] = {"memory": 0, "disk": 0}
        self._budget = budget
        budget.uploads.add(self)

    def add(self, count: int) -> None:
        """So many more bytes came. Raises QueueFull when all uploads together are over the budget."""
        in_memory = max(0, min(count, IN_MEMORY_BYTES - self.held["memory"]))
        self._take("memory", in_memory)
        self._take("disk", count - in_memory)
        self.received += count

    def whole(self) -> None:
        """It is here and about to be read into memory at once. Raises QueueFull."""
        self._take("memory", self.received - self.held["memory"])
        self._give("disk")

    def end(self) -> None:
        """Close its connection and take what it holds, for others."""
        self.release()
        if self.arrival is not None:
            self.arrival.end(uploads_full())

    def release(self) -> None:
        """Give everything back."""
        self._give("memory")
        self._give("disk")
        self._budget.uploads.discard(self)

    def _take(self, where: Where, count: int) -> None:
        if count > 0:
            self._budget.take(where, count, self)
            self.held[where] += count

    def _give(self, where: Where) -> None:
        self._budget.held[where] -= self.held[where]
        self.held[where] = 0


def uploads_full() -> QueueFull:
    """No room for one more body."""
    return QueueFull("Too many uploads at the same time; try again shortly.", code="uploads-full", retry_after=SHORTLY)


def upload_whole(request: Request) -> None:
    """The body of this request is here and about to be read into memory. Raises QueueFull."""
    upload = request.scope.get(SCOPE_KEY)
    if isinstance(upload, Upload):
        upload.whole()


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
        self._budget = UploadBudget(settings.body_limit_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await problems.response(refusal, Request(scope))(scope, receive, send)
            return
        upload = Upload(self._budget, scope.get(arrivals.SCOPE_KEY))
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
