"""Queueing on paper: the closed forms that check the simulation, and the estimate for fleets too large to watch.

Sources: Erlang C, A. K. Erlang (1917); M/G/1, Pollaczek (1930) and Khinchine (1932); G/G/c, A. O. Allen,
"Probability, Statistics, and Queueing Theory" (2nd ed. 1990), 5.4, the Allen-Cunneen approximation; square-root
staffing, S. Halfin and W. Whitt, Operations Research 29 (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def erlang_c(servers: int, load: float) -> float:
    """The probability that a request has to wait in M/M/c; `load` is arrival rate times service time (Erlangs).

    1 when the load is not below the number of servers. Stable for any size: Erlang B by recurrence.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


@dataclass(frozen=True)
class Station:
    """`servers` equal servers, one line. `arrival_cv2`, `service_cv2`: squared coefficients of variation."""

    servers: int
    rate: float
    seconds: float
    arrival_cv2: float = 1.0
    service_cv2: float = 1.0

    @property
    def load(self) -> float:
        """Offered work in Erlangs: servers that would always be busy."""
        return self.rate * self.seconds

    @property
    def utilisation(self) -> float:
        return self.load / self.servers

    def mean_wait(self) -> float:
        """Mean seconds in line: Allen-Cunneen, exact for M/M/c and M/G/1. Infinite without spare capacity."""
        if self.utilisation >= 1.0:
            return math.inf
        markov = erlang_c(self.servers, self.load) * self.seconds / (self.servers * (1.0 - self.utilisation))
        return markov * (self.arrival_cv2 + self.service_cv2) / 2.0

    def wait_quantile(self, q: float) -> float:
        """Seconds in line that a share q does not exceed, taking the tail of the wait as exponential."""
        if self.utilisation >= 1.0:
            return math.inf
        waits = erlang_c(self.servers, self.load)
        if waits <= 1.0 - q:
            return 0.0
        return self.mean_wait() / waits * math.log(waits / (1.0 - q))


def smallest(rate: float, seconds: float, wait_s: float, q: float, cv2: tuple[float, float] = (1.0, 1.0)) -> int:
    """The fewest servers whose wait stays within `wait_s` for a share q of requests.

    Raises ValueError when `wait_s` is negative: no number of servers is enough.
    """
    if wait_s < 0:
        raise ValueError("the service time alone is over the objective; more servers do not help")
    low = max(1, math.floor(rate * seconds) + 1)
    high = low
    while Station(high, rate, seconds, *cv2).wait_quantile(q) > wait_s:
        low, high = high + 1, math.ceil(high * 1.2) + 1
    while low < high:
        middle = (low + high) // 2
        if Station(middle, rate, seconds, *cv2).wait_quantile(q) > wait_s:
            low = middle + 1
        else:
            high = middle
    return high
