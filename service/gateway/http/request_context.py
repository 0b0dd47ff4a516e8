"""What every request and its answer get: a request id, trace context, Server-Timing, safe headers and one log line."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import telemetry
from service.gateway.http import headers

log = logging.getLogger("changeroom.gateway")

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
}
ENDLESS = "/events"
QUIET = ("/livez", "/readyz", "/metrics")


class RequestContext:
    """ASGI middleware around everything else, so that refusals carry a request id as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD" and not scope["path"].endswith(ENDLESS):
            scope = {**scope, "method": "GET"}  # RFC 9110, 9.3.2: as GET; the server leaves the body out
        given = Headers(scope=scope)
        request_id = headers.request_id(given.get("x-request-id"))
        parent = headers.traceparent(given.get("traceparent"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        timings: dict[str, float] = {}
        state["timings"] = timings
        started = time.perf_counter()
        status = 500

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                for name, value in SAFE_HEADERS.items():
                    out.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    out.setdefault("Cache-Control", "no-store")
                parts = {**timings, "total": time.perf_counter() - started}
                out["Server-Timing"] = ", ".join(f"{k};dur={v * 1000:.1f}" for k, v in parts.items())
            await send(message)

        with (
            telemetry.log_context(request=request_id),
            telemetry.span("http.request", parent=parent, attributes={"http.request.method": method}),
        ):
            state["traceparent"] = telemetry.current_traceparent() or parent
            try:
                await self._app(scope, receive, stamped)
            finally:
                if scope["path"] not in QUIET:
                    log.info(
                        "request",
                        extra={
                            "method": method,
                            "route": getattr(scope.get("route"), "path", None),
                            "status": status,
                            "seconds": round(time.perf_counter() - started, 4),
                        },
                    )


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's duration in seconds to `timings` under `stage`, for the Server-Timing header."""
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - started
