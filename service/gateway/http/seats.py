"""The connections of one gateway process: how many there may be, and whose they are."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from service.errors import ServiceError
from service.gateway.http.arrivals import SlowBodies
from service.gateway.http.peers import Peers

log = logging.getLogger("changeroom.gateway")

REFUSED_AT_ONCE = 64
FILES_KEPT = 128


class Seated(Protocol):
    """A connection as the seats know it."""

    peer: str | None

    def close(self) -> None: ...


@dataclass
class Seats:
    """How many connections there may be, of whom they are, those between requests (the longest silent first), those
    that found no room and are still reading why, and those whose body may be slow.
    """

    most: int
    peers: Peers
    on_refused: Callable[[ServiceError], None]
    slow: SlowBodies
    silent: dict[Seated, None] = field(default_factory=dict)
    turned_away: set[Seated] = field(default_factory=set)

    def make_room(self, peer: str | None) -> bool:
        """Close the connection (of `peer`, if named) that has been silent longest; False when all are at work."""
        for longest in self.silent:
            if peer in (None, longest.peer):
                del self.silent[longest]
                longest.close()
                return True
        return False


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
