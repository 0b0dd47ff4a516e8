"""Child processes of `changeroom up`: started, restarted when they end, stopped in order."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.local.restarts import Restarts

_PR_SET_PDEATHSIG = 1


class ChildFailed(RuntimeError):
    """A child process cannot be kept alive; the message is one line."""


def last_error(log: Path) -> str:
    """The last `error: ...` line of a child's log, or where to look."""
    if log.exists():
        for line in reversed(log.read_text(errors="replace").splitlines()[-200:]):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
    return f"it ended without a word; see {log}"


class Child:
    """One `changeroom` subcommand in a session of its own, so that Ctrl-C reaches only the supervisor.

    It inherits the open files `files` under the numbers they have here.
    """

    def __init__(
        self, name: str, arguments: list[str], log: Path, *, files: Sequence[int] = (), first_pause_s: float = 1.0
    ) -> None:
        self.name = name
        self.log = log
        self.started_at = 0.0
        self._arguments = arguments
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts(first_pause_s)

    def start(self) -> None:
        self.started_at = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self._files,
                preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def exited(self) -> int | None:
        """The exit code of a child that is not running, else None."""
        return None if self._process is None else self._process.poll()

    def tend(self) -> bool:
        """Restart the child when it is down and its pause is over; True when it was restarted.

        Raises ChildFailed when it keeps failing (`Restarts`).
        """
        now = time.monotonic()
        code = self.exited()
        if code is not None:
            self._process = None
            if not self._restarts.ended(code, now - self.started_at):
                raise ChildFailed(f"{self.name} keeps failing: {last_error(self.log)}")
        if self._process is None and now >= self._restarts.start_at:
            self.start()
            return True
        return False

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; waits until the process is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def _die_with_parent() -> Callable[[], None]:
    """A hook that makes Linux send SIGTERM to the child when the supervisor dies, however it dies."""
    libc = ctypes.CDLL(None)

    def hook() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return hook
