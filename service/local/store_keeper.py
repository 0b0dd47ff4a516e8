"""The embedded store of `changeroom up`, started again on its own log when it ends."""

from __future__ import annotations

import time
from pathlib import Path

from service.jobs.embedded import EmbeddedServer, EmbeddedServerError, start_server
from service.local.restarts import Restarts


class StoreKeeper:
    """Keeps one store alive; `url` is where it answers, before and after a restart."""

    def __init__(self, data_dir: Path, memory_bytes: int, *, first_pause_s: float = 1.0) -> None:
        """Starts it. Raises EmbeddedServerError."""
        self._data_dir = data_dir
        self._memory_bytes = memory_bytes
        self._restarts = Restarts(first_pause_s)
        self._server: EmbeddedServer | None = start_server(data_dir, memory_bytes)
        self.url = self._server.url
        self._since = self.restarted_at = time.monotonic()
        self._away_since = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    def tend(self) -> list[str]:
        """Start the store again when it has ended and its pause is over; a line for everything that happened.

        Raises EmbeddedServerError when it cannot be started again and again.
        """
        now = time.monotonic()
        said: list[str] = []
        if self._server is not None and not self._server.alive():
            self._server.stop()
            self._server, self._away_since = None, now
            self._restarts.ended(None, now - self._since)
            said.append(f"the store ended; it is started again on its log ({self._log()} says what it said)")
        if self._server is None and now >= self._restarts.start_at:
            said.append(self._start_again())
        return said

    def _start_again(self) -> str:
        try:
            self._server = start_server(self._data_dir, self._memory_bytes)
        except EmbeddedServerError as error:
            if not self._restarts.ended(1, 0.0):
                raise
            return f"the store could not be started again: {error}"
        self._since = self.restarted_at = time.monotonic()
        return f"the store is back after {self._since - self._away_since:.1f} s, with everything it had answered for"

    def stop(self) -> None:
        """End it cleanly."""
        if self._server is not None:
            self._server.stop()

    def _log(self) -> Path:
        return self._data_dir.absolute() / "valkey" / "valkey.log"
