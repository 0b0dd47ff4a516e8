"""Who is let in: the rules of `service/jobs/scripts` (reserve.lua, queue.lua) for a simulated service.

The numbers are the scripts' own; a test holds them together.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from loadtests.capacity.fleet import CONCURRENCY, FULL, RATE, SimulatedFleet

LEARNING = 0.2
LEAST_WAITING, ROOM_SHARE, LIGHT_ROOM = 2, 4, 1.25
LIGHT_PART = 4
RATE_WINDOW_S = 60.0


class Admission:
    """Jobs in flight, in all and by tenant, and those that workers have.

    `seconds` is the learned engine time of one job, None before the first result.
    """

    def __init__(self, fleet: SimulatedFleet) -> None:
        self.in_flight = 0
        self.leased = 0
        self.seconds: float | None = None
        self._fleet = fleet
        self._held: Counter[str] = Counter()
        self._rate_at: dict[str, float] = defaultdict(float)

    def refusal(self, tenant: str, now: float, live: int) -> int | None:
        """The status of an arrival that `live` workers cannot take, in the script's order; None lets it in."""
        fleet = self._fleet
        if fleet.max_in_flight and self.in_flight >= fleet.max_in_flight:
            return FULL
        if fleet.max_backlog_s and self.seconds is not None:
            live = max(1, live)
            waiting = self.in_flight - self.leased
            room = max(LEAST_WAITING * live, fleet.max_backlog_s * live / self.seconds)
            own = self._held[tenant]
            free = (LIGHT_ROOM * room if own < room / LIGHT_PART else room) - waiting
            if free < 1 or own >= ROOM_SHARE * free:
                return FULL
        if fleet.concurrency and self._held[tenant] >= fleet.concurrency:
            return CONCURRENCY
        if fleet.rate_per_minute:
            gap = RATE_WINDOW_S / fleet.rate_per_minute
            arrival = max(self._rate_at[tenant], now)
            if arrival - now > RATE_WINDOW_S - gap:
                return RATE
            self._rate_at[tenant] = arrival + gap
        return None

    def enter(self, tenant: str) -> None:
        """One job more of this tenant."""
        self.in_flight += 1
        self._held[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One job of this tenant has ended."""
        self.in_flight -= 1
        self._held[tenant] -= 1

    def learn(self, seconds: float) -> None:
        """One job took `seconds` of a worker's time."""
        known = self.seconds
        self.seconds = seconds if known is None else (1 - LEARNING) * known + LEARNING * seconds
