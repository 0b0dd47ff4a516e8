"""A share and how sure it is: Wilson's score interval, which stays within 0 and 1 and is wide where little is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Share:
    """A share of `n` cases, and the ends of its 95% interval."""

    share: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        """As in a table: 62% (54 to 70)."""
        return f"{100 * self.share:.0f}% ({100 * self.low:.0f} to {100 * self.high:.0f})"

    def as_dict(self) -> dict[str, float | int]:
        """For JSON, shares to four places."""
        return {"share": round(self.share, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}


def wilson(hits: float, n: int) -> Share:
    """The share `hits / n` with its interval; `hits` may be a sum of shares.

    Raises ValueError unless 0 <= hits <= n and n > 0.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is not a share")
    p, spread = hits / n, Z95 * Z95 / n
    middle = (p + spread / 2) / (1 + spread)
    half = Z95 * sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return Share(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)), n)  # rounding crosses neither end
