"""The store's own counters of terminal transitions, copied into a process's metrics.

Counting in the atomic step that makes a job terminal keeps the metrics equal to what clients saw, whatever
process dies when.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.metrics import Metrics


class TotalsCopy:
    """Remembers what was copied, so that each copy adds only what is new."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def copy(self, totals: Mapping[str, int], metrics: Metrics) -> None:
        """Add the growth since the last copy; names are `name|label|label` as in `queue.lua`.

        A store that was emptied starts again from zero.
        """
        for name, value in totals.items():
            seen = self._seen.get(name, 0)
            grown = value - seen if value >= seen else value
            self._seen[name] = value
            if grown:
                _add(metrics, name, grown)
        for name in set(self._seen) - set(totals):
            del self._seen[name]


def _add(metrics: Metrics, name: str, grown: int) -> None:
    match name.split("|"):
        case ["requests", status, reason]:
            metrics.requests.labels(status, reason).inc(grown)
        case ["canceled", phase]:
            metrics.canceled.labels(phase).inc(grown)
        case ["dead_letter", reason]:
            metrics.dead_letter.labels(reason).inc(grown)
        case ["deadline_exceeded"]:
            metrics.deadline_exceeded.inc(grown)
        case ["lease_lost"]:
            metrics.lease_lost.inc(grown)
        case _:
            raise ValueError(f"unknown total {name!r}")
