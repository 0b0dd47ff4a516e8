"""A watch over rewards: says when one dimension is bought with another, which their mean would hide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class Watch:
    """Notices a reward being bought: one dimension's running mean up since the start, another's down."""

    def __init__(self, dimensions: Sequence[str], window: int, least: float = 0.15) -> None:
        self.dimensions, self.window, self.least = tuple(dimensions), window, least
        self.seen, self.first, self.recent = 0, [0.0] * len(dimensions), [0.0] * len(dimensions)

    def update(self, values: Sequence[float]) -> str | None:
        """Take the means of one step, unless one is missing (NaN); every `window` steps, a warning or None."""
        if any(map(math.isnan, values)):
            return None
        self.seen += 1
        for i, value in enumerate(values):
            if self.seen <= self.window:
                self.first[i] += (value - self.first[i]) / self.seen
            self.recent[i] += (value - self.recent[i]) / min(self.seen, self.window)
        if self.seen <= self.window or self.seen % self.window:
            return None
        change = [now - then for now, then in zip(self.recent, self.first, strict=True)]
        up = [i for i, c in enumerate(change) if c > self.least]
        down = [i for i, c in enumerate(change) if c < -self.least]
        if not up or not down:
            return None
        told = ", ".join(f"{self.dimensions[i]} {change[i]:+.2f}" for i in (*up, *down))
        return f"one dimension rises while another falls: {told}"

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "first": list(self.first), "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.first, self.recent = state["seen"], list(state["first"]), list(state["recent"])
