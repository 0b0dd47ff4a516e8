"""How long a bench may take, shared out so that the last mode gets its turn as the first did."""

from __future__ import annotations

import math
import time

NO_TIME = "not measured: the time allowed was over"


class Allowance:
    """Minutes from now on, or None for as long as it takes."""

    def __init__(self, minutes: float | None) -> None:
        self._ends = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def share(self, pieces: int) -> float:
        """When the next of so many equal pieces has to stop, on the clock of `time.monotonic`."""
        now = time.monotonic()
        return now + (self._ends - now) / pieces


def over(ends: float) -> bool:
    """Whether a share is used up."""
    return time.monotonic() >= ends
