"""Bodies on their way: how far each is behind a fair rate, and who may be slow for a while.

A body may fall behind the fair rate, as a phone's does in a lift, but only so far, and only so many of them at one
time: the first bounds how long one body can take (its length at the fair rate, and the pause), the second how many
connections somebody can hold by sending next to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from service.errors import ServiceError

SCOPE_KEY = "changeroom.arrival"
FAIR_BYTES_PER_S = 8 * 1024
"""What a phone with bad reception still sends; a body that keeps to it is never ended for being slow."""
PRESSED_BYTES_PER_S = 128 * 1024
"""What a body must keep to while there is no room for another."""
ADDRESS_SHARE = 4


class Pace:
    """How many seconds a body is behind a rate. Bytes that came early buy no pause: nobody gets ahead of now."""

    def __init__(self, bytes_per_s: float, now: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._due = now

    def brought(self, count: int, now: float) -> None:
        """So many bytes came."""
        self._due = min(now, self._due + count / self._bytes_per_s)

    def lag(self, now: float) -> float:
        """Seconds behind; 0 while it keeps up."""
        return now - self._due

    def excuse(self, now: float) -> None:
        """Start anew: it was not the client who paused."""
        self._due = now


class Arrival:
    """One body being received: its paces, whether all of it is here, and how to end it with a refusal."""

    def __init__(self, now: float, end: Callable[[ServiceError], None]) -> None:
        self.fair = Pace(FAIR_BYTES_PER_S, now)
        self.pressed = Pace(PRESSED_BYTES_PER_S, now)
        self.whole = False
        self.end = end

    def brought(self, count: int, now: float) -> None:
        """So many bytes of it came."""
        self.fair.brought(count, now)
        self.pressed.brought(count, now)

    def excuse(self, now: float) -> None:
        """It is we who do not read."""
        self.fair.excuse(now)
        self.pressed.excuse(now)


@dataclass
class SlowBodies:
    """The bodies that may be slow just now: `most` of them, and of one counted address a quarter of that."""

    most: int
    _held: dict[Hashable, str | None] = field(default_factory=dict)
    _by_peer: Counter[str] = field(default_factory=Counter)

    def admit(self, body: Hashable, peer: str | None) -> bool:
        """Whether this body may be slow; one that was admitted stays so until it leaves."""
        if body in self._held:
            return True
        if len(self._held) >= self.most:
            return False
        if peer is not None and self._by_peer[peer] >= max(1, self.most // ADDRESS_SHARE):
            return False
        self._held[body] = peer
        if peer is not None:
            self._by_peer[peer] += 1
        return True

    def leave(self, body: Hashable) -> None:
        """It keeps up again, is whole, or is gone."""
        peer = self._held.pop(body, None)
        if peer is not None:
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]

    def __len__(self) -> int:
        return len(self._held)
