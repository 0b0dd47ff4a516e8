"""Bodies that came compressed: `Content-Encoding: gzip` is undone on the way in, any other one is a 415.

Layers behind this one see a plain body of unknown length and count what came out of it, so that every limit holds for
the pictures and not for their wrapping. What comes out is handed on in small pieces: a body that would fill the memory
is refused before it does, and other requests have their turn meanwhile.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.gateway.http import problems

GZIP = 16 + zlib.MAX_WBITS
PIECE_BYTES = 64 * 1024
# Pictures are compressed already: an honest body shrinks a little. A bomb would make kilobytes cost us megabytes.
MAX_RATIO = 50
UNMEASURED_BYTES = 1024 * 1024


class ContentEncoding:
    """ASGI middleware in front of the limits of bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = Headers(scope=scope).getlist("content-encoding") if scope["type"] == "http" else []
        encodings = [word.strip().lower() for word in ",".join(said).split(",")]
        encodings = [word for word in encodings if word not in ("", "identity")]
        if not encodings:
            await self._app(scope, receive, send)
        elif encodings in (["gzip"], ["x-gzip"]):
            await self._app(_plain(scope), Unzipped(receive), send)
        else:
            refusal = UnsupportedMediaType(
                "Content-Encoding: a body may come as it is or as gzip.", code="unsupported-content-encoding"
            )
            answer = problems.response(refusal, Request(scope))
            answer.headers["Accept-Encoding"] = "gzip"
            await answer(scope, receive, send)


class Unzipped:
    """A `receive` that hands on what a gzipped body holds.

    Raises InvalidRequest for one that is damaged or cut off, PayloadTooLarge for one that grows beyond reason.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._unzip = zlib.decompressobj(GZIP)
        self._left = b""
        self._more = True
        self._ended = False
        self._came = self._made = 0

    async def __call__(self) -> Message:
        while self._more and not self._left:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._left = message.get("body", b"")
            self._came += len(self._left)
            self._more = message.get("more_body", False)
        if self._ended:
            return await self._receive()
        await asyncio.sleep(0)
        plain = self._piece()
        self._made += len(plain)
        if self._made > max(UNMEASURED_BYTES, MAX_RATIO * self._came):
            raise PayloadTooLarge(
                f"A gzipped body may be at most {MAX_RATIO} times as large as it came; send it as it is.",
                code="body-too-large",
            )
        self._ended = not self._more and not self._left and len(plain) < PIECE_BYTES
        if self._ended and not self._unzip.eof:
            raise _damaged()
        return {"type": "http.request", "body": plain, "more_body": not self._ended}

    def _piece(self) -> bytes:
        """At most PIECE_BYTES of the plain body. A gzip file may have several members, one behind the other."""
        if self._unzip.eof and self._left:
            self._unzip = zlib.decompressobj(GZIP)
        try:
            plain = self._unzip.decompress(self._left, PIECE_BYTES)
        except zlib.error as error:
            raise _damaged() from error
        self._left = self._unzip.unconsumed_tail or self._unzip.unused_data
        return plain


def _damaged() -> InvalidRequest:
    return InvalidRequest("Content-Encoding says gzip, but the body is not a whole gzip file.", code="invalid-encoding")


def _plain(scope: Scope) -> Scope:
    """The request without the headers that tell of its wrapping."""
    plain = {**scope, "headers": list(scope["headers"])}
    headers = MutableHeaders(scope=plain)
    for name in ("content-encoding", "content-length"):
        del headers[name]
    return plain
