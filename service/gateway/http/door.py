"""What is looked at before anything else: that a head says one thing, to us, in text, and from no stranger's page."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import InvalidRequest, MisdirectedRequest, ServiceError
from service.gateway.http import headers, problems, texts
from service.gateway.http.hosts import Hosts, split_authority
from service.gateway.http.origins import Origins
from service.settings import Settings


class Door:
    """ASGI middleware: refuses a head that could be understood in two ways, or is not meant for us."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = Hosts(settings)
        self._origins = Origins(settings, self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is not None:
            await problems.response(error, Request(scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        given = Headers(scope=scope)
        return (
            headers.said_twice(given)
            or self._wrong_host(given, scope["http_version"])
            or texts.wrong_in_head(scope.get("raw_path", b""), scope["query_string"], scope["headers"])
            or self._origins.refusal(scope["method"], given)
        )

    def _wrong_host(self, given: Headers, version: str) -> ServiceError | None:
        host = given.get("host")
        if host is None:
            if version == "1.0":  # no browser, and a health check of old may not know the header
                return None
            return InvalidRequest("HTTP/1.1 needs a Host header.", code="invalid-header", pointer="Host")
        parts = split_authority(host)
        if parts is None:
            return InvalidRequest("Host must be a name or an address.", code="invalid-header", pointer="Host")
        if self._hosts.answer_to(parts[0]):
            return None
        return MisdirectedRequest(
            f"This service does not answer to {parts[0]!r}; add the name to CHANGEROOM_ALLOWED_HOSTS.",
            code="host-not-allowed",
            pointer="Host",
        )
