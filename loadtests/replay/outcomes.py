"""What became of one try-on, as its client saw it: the rows everything else is computed from.

End            meaning                                                                  counts for availability
succeeded      the service made the picture                                             good
failed         accepted, then ended by the service as failed                            bad
expired        accepted, then past its deadline                                         bad
rejected       429 or 503 to the last attempt: the service said "not now"               apart, as rejected
refused        another 4xx or 5xx: wrong request, wrong key, fault of the service       bad
unreachable    no connection, a broken one, or no answer within the time limit          bad
gave up        the impatient client left or canceled                                    apart, as given up
unfinished     the run was ended while it was on its way                                not counted
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

End = Literal["succeeded", "failed", "expired", "rejected", "refused", "unreachable", "gave up", "unfinished"]
BAD: frozenset[str] = frozenset({"failed", "expired", "refused", "unreachable"})


@dataclass
class ClientOutcome:
    """One try-on. Times are seconds; all but `due_at` count from the moment it was due, not from its sending.

    `due_at` counts from the start of the run. `late` is how long after it was due the generator had a free
    connection and began to use it (None: it never came to it). `accepted` is when the 202 was read, `latency` when
    the end was known. `rejections` holds (status, when, seconds the service took to say so) of each 429 and 503.
    `server` holds the service's own stages, `download` the seconds it took to read the picture afterwards.
    """

    index: int
    due_at: float
    garments: int
    priority: str
    size: str | None
    end: End = "unfinished"
    code: str = ""
    status: int = 0
    late: float | None = None
    accepted: float | None = None
    latency: float = 0.0
    attempts: int = 0
    rejections: list[tuple[int, float, float]] = field(default_factory=list)
    server: dict[str, float] = field(default_factory=dict)
    download: float | None = None
    slow: bool = False
    job: str = ""

    @property
    def ended_at(self) -> float:
        """Seconds from the start of the run."""
        return self.due_at + self.latency

    def row(self) -> dict[str, Any]:
        """The outcome as JSON values, times to a tenth of a millisecond."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}
