"""When a part that ended may start again, and when it is given up.

A part that somebody killed after it had served for a while starts again at once, however often that happens: the fault
is not its own. One that fails by itself, or lives shortly, waits longer and longer; one that keeps failing by itself is
given up, because its next start would fail too.
"""

from __future__ import annotations

import signal
import time

MAX_RESTARTS = 5
RESTART_WINDOW_S = 300.0
LONGEST_PAUSE_S = 30.0
LONG_LIFE_S = 5.0
ASKED = (0, -signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of what did not fail by itself: it was killed, or told to end and did."""


class Restarts:
    """The ends of one part: tell it of each with `ended`; it may start again at `start_at` (monotonic)."""

    def __init__(self, first_pause_s: float) -> None:
        self._first_pause_s = first_pause_s
        self._failures: list[float] = []
        self._short_lives = 0
        self.start_at = 0.0

    def ended(self, code: int | None, lived_s: float) -> bool:
        """Note an end, `code` None where nobody can know it; False when the part is to be given up."""
        now = time.monotonic()
        failed = code is not None and code not in ASKED
        self._failures = [at for at in self._failures if now - at < RESTART_WINDOW_S] + [now] * failed
        self._short_lives = 0 if lived_s >= LONG_LIFE_S else self._short_lives + 1
        count = max(self._short_lives, len(self._failures) if failed else 0)
        pause = self._first_pause_s * 2.0 ** (count - 1) if count else 0.0
        self.start_at = now + min(LONGEST_PAUSE_S, pause)
        return len(self._failures) <= MAX_RESTARTS
