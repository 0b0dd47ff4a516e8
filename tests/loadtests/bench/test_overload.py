"""The figures of the overload bench by hand, and the bare HTTP client it uses against a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from loadtests.bench.overload import served_in
from loadtests.capacity.fairness import jain, max_min
from loadtests.replay.client import RUDE_PAUSE_S
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.wire import WireTransport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_max_min_owes_nobody_more_than_asked_and_splits_the_rest() -> None:
    assert max_min([3.0, 47.0], 10.0) == [3.0, 7.0]
    assert max_min([50.0, 20.0, 2.0], 12.0) == [5.0, 5.0, 2.0]
    assert max_min([1.0, 1.0], 10.0) == [1.0, 1.0]


def test_jain_is_one_when_everyone_gets_what_is_owed_and_falls_when_one_takes_it() -> None:
    assert jain([47.0, 3.0], [7.0, 3.0]) == pytest.approx(1.0)
    assert jain([47.0, 3.0], [10.0, 0.0]) == pytest.approx(0.5)
    assert jain([5.0, 3.0], [0.0, 0.0]) == 0.0


def test_latency_of_the_accepted_leaves_the_retries_before_out() -> None:
    once = ClientOutcome(0, 1.0, 1, "normal", None, end="succeeded", latency=2.0)
    assert served_in(once) == 2.0
    third = ClientOutcome(0, 1.0, 1, "normal", None, end="succeeded", latency=2.0)
    third.rejections = [(503, 0.01, 0.01), (503, 0.5, 0.01)]
    assert served_in(third) == pytest.approx(1.5 - RUDE_PAUSE_S)


@asynccontextmanager
async def served(answer: Serve) -> AsyncIterator[str]:
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        await answer(reader, writer)
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*running), 20)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection with how many it was and its body; `/last` closes."""
    count = 0
    while head := await reader.readline():
        count += 1
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = str(count).encode() + await reader.readexactly(length)
        last = head.split()[1] == b"/last"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write((b"Connection: close\r\n\r\n" if last else b"\r\n") + body)
        await writer.drain()
        if last:
            break
    writer.close()


async def test_wire_reuses_a_connection_until_it_is_closed() -> None:
    async with served(echo) as url, httpx.AsyncClient(transport=WireTransport(), base_url=url) as client:
        answers = [await client.post(path, content=b"x") for path in ("/a", "/b", "/last", "/c")]
        assert [answer.text for answer in answers] == ["1x", "2x", "3x", "1x"]


async def test_wire_says_what_broke() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"hello\r\n\r\n")
        writer.close()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with httpx.AsyncClient(transport=WireTransport()) as client:
        async with served(nonsense) as url:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(url)
        async with served(silence) as url:
            with pytest.raises(httpx.ReadError):
                await client.get(url)
        with pytest.raises(httpx.ConnectError):
            await client.get(url)
