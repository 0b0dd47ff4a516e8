"""Bounds on connections: how many there are, how slowly one may send and read, and how much around a body.

uvicorn alone keeps silent or trickling connections for ever, any number of them, with headers and trailers of any
size, and takes the body of a request that offers an upgrade for another protocol. `guarded_protocol` counts every byte
of a request: its head, its body, and what stands around the body in chunks. It closes connections whose headers are
late or endless, whose bodies fall too far behind a fair rate, or whose reader has stopped reading. At the cap, the
connection that has been silent longest makes room for a new one, so that silent clients keep nobody out; when every
connection is at work, a new one is told 503. The same holds among the connections of one address, whose newcomer is
told 429.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import InvalidRequest, QueueFull, ServiceError, TooManyRequests
from service.gateway.http import problems
from service.gateway.http.arrivals import SCOPE_KEY, Arrival, SlowBodies
from service.gateway.http.peers import Peers
from service.gateway.http.seats import REFUSED_AT_ONCE, Seats, room_for
from service.gateway.http.upgrades import body_parser, head_without_offer
from service.retry_after import SOON
from service.settings import Settings

HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
AROUND_BYTES = 64 * 1024
AROUND_EACH = 16
"""Bytes around a body (chunk sizes, extensions, trailers): so many in one go, and for each of the body's own."""
SLICE_BYTES = 16 * 1024
LOOK_S = 1.0
LINGER_S = 2.0


def guarded_protocol(
    settings: Settings, *, on_refused: Callable[[ServiceError], None] = lambda error: None
) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with deadlines and a cap; pass it as `http=` to uvicorn.Config.

    The cap is `max_connections`, less where this process may not open as many files; the soft limit of files is
    raised as far as it may be. `on_refused` is told of every connection that found no room. Raises SettingsError for
    trusted proxies that are not networks.
    """

    class Guarded(_GuardedProtocol):
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_idle_timeout_s
        body_pause_s = max(settings.body_pause_s, settings.body_idle_timeout_s)
        seats = Seats(
            room_for(settings.max_connections), Peers(settings), on_refused, SlowBodies(settings.max_slow_bodies)
        )

    return Guarded


_TOO_FULL = QueueFull("Every connection is taken; try again shortly.", code="too-many-connections", retry_after=SOON)
_TOO_CROWDED = TooManyRequests(
    "This address has too many connections; close some or try again shortly.", code="address-limited", retry_after=SOON
)
_HEAD_TOO_LARGE = problems.HeadTooLarge(f"Request line and headers may have at most {HEAD_BYTES // 1024} kB.")
_TOO_MUCH_AROUND = problems.HeadTooLarge(f"Chunk extensions and trailers may have at most {AROUND_BYTES // 1024} kB.")


class _GuardedProtocol(HttpToolsProtocol):
    """One timer a connection: for headers, a body or a lingering upload; one for a stalled reader."""

    header_timeout_s: float
    body_timeout_s: float
    body_pause_s: float
    seats: Seats

    peer: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _arrival: Arrival | None = None
    _too_much: ServiceError | None = None
    _head_bytes = 0
    _named_bytes = 0
    _body_bytes = 0
    _body_bytes_ever = 0
    _around_bytes = 0
    _around_in_one_go = 0
    _in_message = False
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.seats.peers.enter(self.client[0] if self.client else "")
        full, crowded = len(self.connections) > self.seats.most, self.seats.peers.crowded(self.peer)
        if (full or crowded) and not self.seats.make_room(self.peer if crowded else None):
            self._turn_away(_TOO_CROWDED if crowded else _TOO_FULL)
            return
        self.seats.silent[self] = None
        self._await_headers()

    def _turn_away(self, error: ServiceError) -> None:
        """Answer before any request; what the client still sends is dropped, so that it can read the answer."""
        self.connections.discard(self)
        self._forget_peer()
        self.seats.on_refused(error)
        if len(self.seats.turned_away) >= REFUSED_AT_ONCE:
            self._abort()
            return
        self.seats.turned_away.add(self)
        self._say(error)
        self.transport.write_eof()
        self._arm(LINGER_S, self._abort)

    def _forget_peer(self) -> None:
        self.seats.peers.leave(self.peer)
        self.peer = None

    def data_received(self, data: bytes) -> None:
        """In slices, so that what is too much is noticed before all of it is parsed."""
        if self in self.seats.turned_away:
            return
        self._unset_keepalive_if_required()
        view = memoryview(data)
        for start in range(0, len(view), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            before = self._body_bytes_ever
            if not self._parse(piece):
                return
            self._count(len(piece), self._body_bytes_ever - before)
            if self.transport.is_closing():
                return
        if not self._in_message and self._is_idle() and not self.timeout_keep_alive_task:
            self._await_headers()

    def _parse(self, data: memoryview) -> bool:
        """Feed the parser, past every offer of an upgrade; False when that was the end of the connection."""
        todo = [data]
        while todo:
            piece = todo.pop(0)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                head = head_without_offer(self.parser.get_http_version(), self.headers, self.cycle.keep_alive)
                self.parser = body_parser(self)
                todo = [memoryview(head), piece[offer.args[0] :]]
            except httptools.HttpParserError:
                if self._too_much is not None:
                    self._refuse(self._too_much)
                else:
                    self.send_400_response("Invalid HTTP request received.")
                return False
        return True

    def _count(self, read: int, of_body: int) -> None:
        """Hold what is neither line nor header nor body against its bounds."""
        if self._in_head:
            self._head_bytes += read
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
        elif self._in_message:
            self._around_bytes += read - of_body
            self._around_in_one_go = 0 if of_body else self._around_in_one_go + read
            most = AROUND_BYTES + AROUND_EACH * self._body_bytes
            if self._around_in_one_go > AROUND_BYTES or self._around_bytes > most:
                self._refuse(_TOO_MUCH_AROUND)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._forget_peer()
        self._body_is_over()
        self.seats.silent.pop(self, None)
        self.seats.turned_away.discard(self)
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._head_bytes = self._named_bytes = 0
        self._body_bytes = self._around_bytes = self._around_in_one_go = 0
        self._await_headers()

    def on_url(self, url: bytes) -> None:
        self._named_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are read over: what they say came after the request was understood."""
        if not self._in_head:
            return
        self._named_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS:
            self._too_much = problems.HeadTooLarge(f"A request may have at most {MAX_HEADERS} headers.")
        elif self._named_bytes > HEAD_BYTES:
            self._too_much = _HEAD_TOO_LARGE
        if self._too_much is not None:
            raise ValueError(self._too_much.detail)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is not a proxy")
        if not self.url.startswith((b"/", b"*")):
            self._take_host_of_target()
        self.seats.silent.pop(self, None)
        self._in_head = False
        self._arrival = Arrival(self.loop.time(), self._make_room_for_others)
        cast(Scope, self.scope)[SCOPE_KEY] = self._arrival
        super().on_headers_complete()
        self._arm(self.body_timeout_s, self._look_at_body)

    def _take_host_of_target(self) -> None:
        """`GET http://host/path`: its host goes before that of the header (RFC 9112, 3.2.2)."""
        authority = re.split(rb"[/?]", self.url.partition(b"://")[2], maxsplit=1)[0]
        given = [index for index, (name, _) in enumerate(self.headers) if name == b"host"]
        if len(given) == 1:
            self.headers[given[0]] = (b"host", authority)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_bytes_ever += len(body)
        if self._arrival is not None:
            self._arrival.brought(len(body), self.loop.time())
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_message = False
        self._body_is_over()
        self._disarm()
        super().on_message_complete()

    def _body_is_over(self) -> None:
        self.seats.slow.leave(self)
        if self._arrival is not None:
            self._arrival.whole = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle() and not self.transport.is_closing():
            self.seats.silent[self] = None
        if self._in_message and self._is_idle() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._arm(min(LINGER_S, self.body_timeout_s), self.close)

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
        self._refuse(problems.RequestTimeout("The request headers did not arrive in time."))

    def _look_at_body(self) -> None:
        """A body may be behind for a moment, some of them for longer, unless it is we who do not read."""
        arrival, now = self._arrival, self.loop.time()
        if arrival is None:
            return
        if self.flow is not None and self.flow.read_paused:
            arrival.excuse(now)
        lag = arrival.fair.lag(now)
        late = lag >= self.body_timeout_s
        if lag >= self.body_pause_s or (late and not self.seats.slow.admit(self, self.peer)):
            self._refuse(problems.RequestTimeout("The request body arrived too slowly."))
            return
        if not late:
            self.seats.slow.leave(self)
        left = (self.body_pause_s if late else self.body_timeout_s) - lag
        self._arm(min(left, LOOK_S) if late else left, self._look_at_body)

    def _make_room_for_others(self, error: ServiceError) -> None:
        self.seats.on_refused(error)
        self._refuse(error)

    def send_400_response(self, msg: str) -> None:
        self._say(InvalidRequest(f"This is not HTTP/1.1: {msg}", code="invalid-http"))
        self.close()

    def _refuse(self, error: ServiceError) -> None:
        if self.transport.is_closing():
            return
        idle = self._is_idle()
        if (idle and self._in_message) or (not idle and not self.cycle.response_started):
            self._say(error)
        self.close()

    def _say(self, error: ServiceError) -> None:
        """A problem for a request that never reached the application."""
        self.transport.write(problems.on_the_wire(error))

    def close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _abort(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
