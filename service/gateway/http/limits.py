"""Bounds on the bodies a client may send: a limit of one body, and a budget of all uploads together.

uvicorn alone accepts bodies of any size. `BodyLimit` refuses by Content-Length before the first byte and counts
the bytes of chunked bodies.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, PayloadTooLarge, QueueFull, ServiceError
from service.gateway.http import problems
from service.retry_after import SHORTLY
from service.settings import Settings

BUDGET_BODIES = 8
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
            said = "Too many uploads at the same time; try again shortly."
            raise QueueFull(said, code="uploads-full", retry_after=SHORTLY)
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
