"""The one place where an error becomes HTTP: RFC 9457 problem documents with stable types.

`type` is `urn:changeroom:problem:<code>`; `code`, `retryable` and `request_id` are extension members every
problem carries. The OpenAI and FASHN shapes need their own members (`error`, `message`) beside them, which
RFC 9457 allows, so that those clients show the sentence instead of a bare status.
"""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from service.errors import InvalidRequest, ServiceError, StoreUnavailable
from service.gateway.http.dialects import Dialect, dialect_of, members, status_of
from service.gateway.http.request_context import ENDLESS, QUIET
from service.jobs.schemas import JobError
from service.retry_after import SHORTLY, SOON

log = logging.getLogger("changeroom.gateway")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:changeroom:problem:"

# Refusals the queue does not see and therefore does not count.
OWN_REFUSALS = frozenset({"uploads-full", "decoder-busy", "storage-full", "catalogue-full"})

JOB_TITLES = {
    "engine-failed": "The engine could not make the picture",
    "out-of-memory": "The picture needs more memory than there is",
    "deadline-exceeded": "The deadline passed before the picture was made",
    "canceled": "The try-on was canceled",
}


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    retryable: bool = False,
    request_id: str | None = None,
    retry_after: int | None = None,
    pointer: str | None = None,
) -> dict[str, Any]:
    """One problem document as plain JSON values."""
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
    }
    if request_id:
        document["request_id"] = request_id
    if retry_after is not None:
        document["retry_after"] = retry_after
    if pointer:
        document["pointer"] = pointer
    return document


def of_error(error: ServiceError, request_id: str | None = None, dialect: Dialect = "native") -> dict[str, Any]:
    """The problem document of an error from the tree, with what the clients of a dialect read beside it."""
    document = problem(
        status_of(error, dialect),
        error.code,
        error.title,
        error.detail,
        retryable=error.retryable,
        request_id=request_id,
        retry_after=error.retry_after,
        pointer=error.pointer,
    )
    return document | members(error, dialect)


def of_job_error(error: JobError) -> dict[str, Any]:
    """The problem inside a try-on that did not succeed; the HTTP exchange itself went well."""
    title = JOB_TITLES.get(error.code, "The try-on did not succeed")
    return problem(200, error.code, title, error.message, retryable=error.retryable)


def on_the_wire(error: ServiceError) -> bytes:
    """The error as the last answer of a connection, where no application has been asked."""
    body = json.dumps(of_error(error), separators=(",", ":")).encode()
    retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\n" + retry + "connection: close\r\n\r\n"
    )
    return head.encode() + body


def response(error: ServiceError, request: Request) -> Response:
    """The error as an HTTP response, in the dialect of the endpoint that was called."""
    request_id = getattr(request.state, "request_id", None)
    document = of_error(error, request_id, dialect_of(request.url.path))
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif error.status in (429, 503):
        headers["Retry-After"] = str(SOON)
    if error.status == 416:
        headers["Accept-Ranges"] = "bytes"
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="changeroom"'
    return Response(
        json.dumps(document, separators=(",", ":")),
        status_code=document["status"],
        media_type=MEDIA_TYPE,
        headers=headers,
    )


class _HttpError(ServiceError):
    """An HTTP error raised by the framework itself, such as 404 or 405, given our shape."""

    def __init__(self, status: int, detail: str) -> None:
        code = http.HTTPStatus(status).phrase.lower().replace(" ", "-")
        super().__init__(detail, code=code)
        self.status = status
        self.title = http.HTTPStatus(status).phrase


class RequestTimeout(ServiceError):
    """The client sent its request too slowly."""

    status, code, title, retryable = 408, "request-timeout", "The request took too long to arrive", True


class HeadTooLarge(ServiceError):
    """uvicorn keeps headers, and what stands around a body, of any size; nothing honest needs this much."""

    status, code, title = 431, "headers-too-large", "The request headers are too large"


def allowed_methods(routes: Iterable[BaseRoute], request: Request) -> list[str]:
    """Every method of this path: the framework's own Allow names only the first matching route."""
    methods: set[str] = set()
    for route in routes:
        found, _ = route.matches(request.scope)
        if found is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    if "GET" in methods and not request.url.path.endswith(ENDLESS):
        methods.add("HEAD")
    return sorted(methods)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Register the handlers; no other module of the gateway writes an error response."""

    async def service_error(request: Request, error: Exception) -> Response:
        error = cast(ServiceError, error)
        if error.code in OWN_REFUSALS:
            request.app.state.gateway.metrics.admission_rejected.labels(error.code).inc()
        if error.status >= 500 and request.url.path not in QUIET:
            log.warning("request refused", extra={"code": error.code, "status": error.status})
        return response(error, request)

    async def http_error(request: Request, error: Exception) -> Response:
        error = cast(HTTPException, error)
        detail = {
            404: "There is nothing at this path; see /openapi.json for the paths that exist.",
            405: "This path does not know that method; see the Allow header.",
        }.get(error.status_code, str(error.detail))
        answer = response(_HttpError(error.status_code, detail), request)
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(allowed_methods(routes, request))
        return answer

    async def validation_error(request: Request, error: Exception) -> Response:
        error = cast(RequestValidationError, error)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        name = ".".join(where[1:]) or where[0]
        return response(InvalidRequest(f"{where[0]} {name}: {first['msg']}.", pointer=name), request)

    async def store_error(request: Request, error: Exception) -> Response:
        log.warning("store unavailable", extra={"error": type(error).__name__})
        return response(StoreUnavailable("The store does not answer; try again shortly.", retry_after=SHORTLY), request)

    async def disconnected(request: Request, error: Exception) -> Response:
        return response(RequestTimeout("The body did not arrive."), request)

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected error", exc_info=error)
        return response(ServiceError("Unexpected; the request id identifies it in our logs."), request)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(RedisError, store_error)
    app.add_exception_handler(ClientDisconnect, disconnected)
    app.add_exception_handler(Exception, unexpected)
