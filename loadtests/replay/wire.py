"""HTTP/1.1 to one address with little work for the generator: bare asyncio streams under httpx's interface.

A load generator on the service's own machine takes processor time from it. This transport does a third of the
work of httpx's own pool, which at 60 refused requests a second was the slowest part of the whole measurement.
Plain http, bodies with a length, keep-alive; nothing else.
"""

from __future__ import annotations

import asyncio
import time

import httpx

IDLE_S = 2.0  # below what servers allow, so that no request meets a closing connection
HEAD_BYTES = 1 << 16

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class WireTransport(httpx.AsyncBaseTransport):
    """Keep-alive connections to the address of each request's URL; there is no limit to their number.

    Raises httpx.ConnectError, httpx.RemoteProtocolError and httpx.ReadError as httpx's own transport does.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[str, int], list[tuple[float, Connection]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_headers.started", {})
        address = (request.url.host, request.url.port or 80)
        reader, writer = await self._connection(address)
        whole = False
        try:
            writer.write(_head(request) + request.content)
            await writer.drain()
            status, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
            fields = httpx.Headers(headers)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            whole = fields.get("connection", "").lower() != "close"
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise httpx.ReadError(repr(error), request=request) from error
        finally:
            if whole:
                self._free.setdefault(address, []).append((time.monotonic(), (reader, writer)))
            else:
                writer.close()
        return httpx.Response(status, headers=fields, stream=httpx.ByteStream(body), request=request)

    async def _connection(self, address: tuple[str, int]) -> Connection:
        """The connection used last, if it is fresh and open, or a new one."""
        free = self._free.get(address, [])
        while free:
            since, (reader, writer) = free.pop()
            if time.monotonic() - since < IDLE_S and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        try:
            return await asyncio.open_connection(*address, limit=HEAD_BYTES)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error

    async def aclose(self) -> None:
        for free in self._free.values():
            for _, (_, writer) in free:
                writer.close()
        self._free.clear()


def _head(request: httpx.Request) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _parsed(head: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    try:
        status = int(first.split(b" ", 2)[1])
        return status, [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    except (IndexError, ValueError):
        raise httpx.RemoteProtocolError(f"not an HTTP answer: {first[:80]!r}") from None
