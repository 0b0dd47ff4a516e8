"""The line of waiting jobs: priorities, and turns of tenants, as `service/jobs/scripts` keeps them.

The numbers are those of queue.lua, submit.lua and claim.lua; a test holds them together.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Collection, Iterator

HANDICAP_S = {"high": 0.0, "normal": 8.0, "low": 30.0}
DEBT_S = 10.0
STEP_S = 0.001


class Line:
    """Jobs by number. Each waits in the queue of its priority, at the place that its tenant's turn gives it."""

    def __init__(self) -> None:
        self._queues: dict[str, list[tuple[float, int]]] = {name: [] for name in HANDICAP_S}
        self._waiting: set[int] = set()
        self._queued_at: dict[int, float] = {}
        self._place: dict[int, float] = {}
        self._deadlines: deque[tuple[float, int]] = deque()
        self._turns: Counter[tuple[str, str]] = Counter()
        self._last_turn: dict[str, dict[str, float]] = {name: {} for name in HANDICAP_S}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def enter(self, job: int, priority: str, tenant: str, now: float, *, gap_s: float, deadline_s: float) -> None:
        """Queue a job for the first time. `gap_s` is the time between two jobs in which the fleet does one.

        The rule of submit.lua: a virtual clock for each tenant of a priority.
        """
        places = self._last_turn[priority]
        place = now
        if tenant in places:
            last = places[tenant]
            place = max(now, last + STEP_S, min(last + gap_s * len(places), now + DEBT_S))
        places[tenant] = place
        self._turns[priority, tenant] += 1
        self._queued_at[job], self._place[job] = now, place
        self._deadlines.append((now + deadline_s, job))
        self.line_up(job, priority)

    def line_up(self, job: int, priority: str) -> None:
        """Let a job wait at its place, the first time or again."""
        self._waiting.add(job)
        heapq.heappush(self._queues[priority], (self._place[job], job))

    def first(self, closed: Collection[str]) -> int | None:
        """The job to take next, of the priorities that are not closed."""
        best, best_time = None, math.inf
        for priority, queue in self._queues.items():
            while queue and queue[0][1] not in self._waiting:
                heapq.heappop(queue)
            if queue and priority not in closed:
                time = self._queued_at[queue[0][1]] + HANDICAP_S[priority]
                if time < best_time:
                    best, best_time = queue[0][1], time
        return best

    def take(self, job: int) -> None:
        """A worker has claimed this job."""
        self._waiting.discard(job)

    def overdue(self, now: float) -> Iterator[int]:
        """Jobs still waiting at their deadline; they leave the queue."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job = self._deadlines.popleft()
            if job in self._waiting:
                self._waiting.discard(job)
                yield job

    def end(self, priority: str, tenant: str) -> None:
        """One job of this tenant has ended; its last one takes the tenant's clock with it."""
        self._turns[priority, tenant] -= 1
        if not self._turns[priority, tenant]:
            del self._last_turn[priority][tenant]
