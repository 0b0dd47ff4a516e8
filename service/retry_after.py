"""When a refused caller may come again: every Retry-After of the service, in whole seconds, at least one.

What a limit or a full queue means in seconds only the store knows, at the moment it refuses: `jobs/scripts/reserve.lua`
answers with the backlog over the service rate, with one job's time, or with what is left until the rate or the day has
room again.
"""

from __future__ import annotations

import math

SOON = 1
"""Connections, a twin that is being read, a step of a running job: free again at any moment."""
SHORTLY = 2
"""What has to come back or be worked off first: a store, its pictures, decoders, workers, memory for uploads."""


def whole_seconds(seconds: float) -> int:
    """Seconds as the header says them."""
    return max(1, math.ceil(seconds))
