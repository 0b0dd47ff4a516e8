"""All parts of `changeroom up`, tended together: whatever ends is started again, and what happened is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from signal import Signals

from service.errors import CommandFailed
from service.local.restarts import ASKED
from service.local.store_keeper import StoreKeeper
from service.local.supervisor import Child, last_error


class Household:
    """The store, where it is ours to keep, and the children that use it."""

    def __init__(self, store: StoreKeeper | None, children: Sequence[Child]) -> None:
        self._store = store
        self._children = children

    def start(self) -> None:
        for child in self._children:
            child.start()

    def tend(self, *, starting: bool = False) -> Iterator[str]:
        """Start again what has ended; a line for everything that happened.

        Raises ChildFailed or EmbeddedServerError for what keeps failing by itself; while `starting`, CommandFailed for
        a child that fails by itself at all, with the store there all the while: its next start would fail too.
        """
        if self._store is not None:
            yield from self._store.tend()
        for child in self._children:
            code = child.exited()
            if code is not None:
                if starting and code not in ASKED and not self._store_went_since(child.started_at):
                    raise CommandFailed(f"{child.name} did not start: {last_error(child.log)}")
                yield f"{child.name} {ending(code)}; see {child.log}"
            if child.tend():
                yield f"{child.name} was restarted"

    def _store_went_since(self, moment: float) -> bool:
        return self._store is not None and self._store.restarted_at > moment

    def stop(self, grace_s: float) -> None:
        """End the children in order, each within `grace_s`."""
        for child in self._children:
            child.stop(grace_s)

    def kill(self) -> None:
        """End the children at once."""
        for child in self._children:
            child.kill()

    def stop_store(self) -> None:
        if self._store is not None:
            self._store.stop()


def ending(code: int) -> str:
    """How an exit code is told."""
    return f"was killed ({Signals(-code).name})" if code < 0 else f"ended with code {code}"
