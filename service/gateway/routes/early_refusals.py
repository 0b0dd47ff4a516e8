"""Refusals at the door: who was just told that the queue is full hears it again before anything else is done.

Clients that retry without waiting are most of the traffic just when the service is busiest. This layer answers
them in front of routing and of the body, for a fraction of the cost; everything else it lets through untouched,
also what is wrong with a request, which the application says better.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import QueueFull, ServiceError
from service.gateway.http import headers, problems
from service.gateway.routes.state import caller_of, gateway_of

PATHS = frozenset({"/v1/try-ons", "/v1/images/edits", "/v1/run"})


class EarlyRefusals:
    """ASGI middleware: a fresh refusal of the queue is repeated to the same caller (`turn_away` of the queue)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS:
            request = Request(scope)
            error = await _refusal(request)
            if error is not None:
                await problems.response(error, request)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _refusal(request: Request) -> QueueFull | None:
    try:
        await gateway_of(request).queue.submission.turn_away(
            tenant=caller_of(request).tenant,
            idempotency_key=headers.idempotency_key(request.headers.get("idempotency-key")),
        )
    except QueueFull as error:
        return error
    except ServiceError:
        return None
    return None
