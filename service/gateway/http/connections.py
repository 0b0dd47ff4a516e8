"""Bounds on connections: how many there are, and how slowly one may send and read.

uvicorn alone keeps silent or trickling connections for ever, any number of them, and headers of any size.
`guarded_protocol` closes connections whose headers are late or endless, whose bodies arrive below a floor rate, or
whose reader has stopped reading. At the cap, the connection that has been silent longest makes room for a new one, so
that silent clients keep nobody out; when every connection is at work, a new one is told 503. The same holds among the
connections of one address, whose newcomer is told 429.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import InvalidRequest, QueueFull, ServiceError, TooManyRequests
from service.gateway.http import problems
from service.gateway.http.peers import Peers
from service.retry_after import SOON
from service.settings import Settings

log = logging.getLogger("changeroom.gateway")

FLOOR_BYTES_PER_S = 1024
HEAD_BYTES = 64 * 1024
LINGER_S = 2.0
REFUSED_AT_ONCE = 64
FILES_KEPT = 128


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
        seats = Seats(room_for(settings.max_connections), Peers(settings), on_refused)

    return Guarded


def room_for(connections: int) -> int:
    """How many of `connections` this process may hold open beside its other files, after asking for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + REFUSED_AT_ONCE + FILES_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    room = max(1, soft - REFUSED_AT_ONCE - FILES_KEPT)
    log.warning("fewer connections than asked for: open files are limited", extra={"limit": soft, "connections": room})
    return room


_TOO_FULL = QueueFull("Every connection is taken; try again shortly.", code="too-many-connections", retry_after=SOON)
_TOO_CROWDED = TooManyRequests(
    "This address has too many connections; close some or try again shortly.", code="address-limited", retry_after=SOON
)


@dataclass
class Seats:
    """The connections of one process: how many it may have, of whom they are, those between requests (the longest
    silent first), and those that found no room and are still reading why.
    """

    most: int
    peers: Peers
    on_refused: Callable[[ServiceError], None]
    silent: dict[_GuardedProtocol, None] = field(default_factory=dict)
    turned_away: set[_GuardedProtocol] = field(default_factory=set)


class _GuardedProtocol(HttpToolsProtocol):
    """One timer a connection: for headers, body window or lingering upload; one for a stalled reader."""

    header_timeout_s: float
    body_timeout_s: float
    seats: Seats

    _peer: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _window_bytes = 0
    _head_bytes = 0
    _in_message = False
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = self.seats.peers.enter(self.client[0] if self.client else "")
        full, crowded = len(self.connections) > self.seats.most, self.seats.peers.crowded(self._peer)
        if (full or crowded) and not self._make_room(self._peer if crowded else None):
            self._turn_away(_TOO_CROWDED if crowded else _TOO_FULL)
            return
        self.seats.silent[self] = None
        self._await_headers()

    def _make_room(self, peer: str | None) -> bool:
        """Close the connection (of `peer`, if named) that has been silent longest; False when all are at work."""
        for longest in self.seats.silent:
            if peer in (None, longest._peer):
                del self.seats.silent[longest]
                longest._close()
                return True
        return False

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
        self.seats.peers.leave(self._peer)
        self._peer = None

    def data_received(self, data: bytes) -> None:
        if self in self.seats.turned_away:
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                said = f"Request line and headers may have at most {HEAD_BYTES // 1024} kB."
                self._refuse(problems.HeadTooLarge(said))
        if not self._in_message and self._is_idle() and not self.timeout_keep_alive_task:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._forget_peer()
        self.seats.silent.pop(self, None)
        self.seats.turned_away.discard(self)
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._head_bytes = 0
        self._await_headers()

    def on_headers_complete(self) -> None:
        self.seats.silent.pop(self, None)
        self._in_head = False
        super().on_headers_complete()
        self._window_bytes = 0
        self._arm(self.body_timeout_s, self._body_window)

    def on_body(self, body: bytes) -> None:
        self._window_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle() and not self.transport.is_closing():
            self.seats.silent[self] = None
        if self._in_message and self._is_idle() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._arm(min(LINGER_S, self.body_timeout_s), self._close)

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

    def _body_window(self) -> None:
        """Every window must bring its share of bytes, unless it is we who do not read them."""
        paused = self.flow is not None and self.flow.read_paused
        if paused or self._window_bytes >= FLOOR_BYTES_PER_S * self.body_timeout_s:
            self._window_bytes = 0
            self._arm(self.body_timeout_s, self._body_window)
            return
        self._refuse(problems.RequestTimeout("The request body arrived too slowly."))

    def send_400_response(self, msg: str) -> None:
        self._say(InvalidRequest(f"This is not HTTP/1.1: {msg}", code="invalid-http"))
        self._close()

    def _refuse(self, error: ServiceError) -> None:
        if self.transport.is_closing():
            return
        idle = self._is_idle()
        if (idle and self._in_message) or (not idle and not self.cycle.response_started):
            self._say(error)
        self._close()

    def _say(self, error: ServiceError) -> None:
        """A problem for a request that never reached the application."""
        body = json.dumps(problems.of_error(error), separators=(",", ":")).encode()
        phrase = HTTPStatus(error.status).phrase
        retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after is not None else ""
        self.transport.write(
            (
                f"HTTP/1.1 {error.status} {phrase}\r\n"
                f"content-type: {problems.MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\n" + retry + "connection: close\r\n\r\n"
            ).encode()
            + body
        )

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _abort(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
