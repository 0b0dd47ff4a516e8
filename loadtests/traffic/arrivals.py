"""When try-ons arrive and what they ask for: generated from a rate curve, or taken from a recorded trace.

Generated arrivals are a renewal process of unit rate with Gamma intervals of a chosen coefficient of variation
(1 is a Poisson process, above 1 comes in bursts), carried through the inverse of the cumulative rate: the
time-change theorem for point processes (Cinlar, Introduction to Stochastic Processes, 1975, chapter 4.7; for
renewal input Gerhardt and Nelson, "Transforming Renewal Processes for Simulation of Nonstationary Arrival
Processes", INFORMS J. Computing 21(4), 2009). So burstiness and any curve (steady, diurnal, flash sale) combine.

Everything drawn is drawn from one seed: the same seed, the same arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from loadtests.traffic.trace_files import Recorded
from service.jobs.schemas import Priority

MAX_GARMENTS = 6
PRIORITIES: tuple[str, ...] = get_args(Priority)
CURVE_POINTS = 20_000

Value = TypeVar("Value")
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
ImagesAs = Literal["garments", "requests", "ignored"]


@dataclass(frozen=True)
class Arrival:
    """One try-on to come: `offset_s` seconds after the start, 1 to 6 garments, a priority, WIDTHxHEIGHT or None.

    `service_s` is how long a recorded service took for it, where the trace says so.
    """

    offset_s: float
    garments: int = 1
    priority: str = "normal"
    size: str | None = None
    service_s: float | None = None


@dataclass(frozen=True)
class Mix(Generic[Value]):
    """Values and how often each is drawn; the weights need not sum to 1."""

    values: tuple[Value, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.weights) or not self.values:
            raise ValueError("a mix needs as many weights as values, and at least one")
        if min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf"):
            raise ValueError("the weights of a mix must be positive numbers")

    def draw(self, count: int, rng: np.random.Generator) -> list[Value]:
        """`count` values."""
        shares = np.asarray(self.weights, dtype=np.float64)
        return [self.values[index] for index in rng.choice(len(self.values), size=count, p=shares / shares.sum())]


@dataclass(frozen=True)
class Asked:
    """What arrivals ask for where their trace does not say: mixes of garment counts, priorities and sizes."""

    garments: Mix[int] = Mix((1, 2, 3), (0.5, 0.3, 0.2))
    priorities: Mix[str] = Mix(("normal",), (1.0,))
    sizes: Mix[str | None] = Mix((None,), (1.0,))


def parse_mix(text: str) -> Mix[str]:
    """`1:0.5,2:0.3,3:0.2`, or `1,2,3` for equal shares. Raises ValueError."""
    values, weights = [], []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        value, colon, weight = part.rpartition(":")
        values.append(value.strip() if colon else part)
        weights.append(float(weight) if colon else 1.0)
    return Mix(tuple(values), tuple(weights))


def steady(rate: float) -> Curve:
    """`rate` arrivals a second all the time."""
    return lambda t: np.full_like(t, rate)


def diurnal(mean_rate: float, peak_to_trough: float, period_s: float = 86_400.0, peak_s: float | None = None) -> Curve:
    """A sine day of `mean_rate`, highest at `peak_s` (default: half of the period), `peak_to_trough` times its low."""
    if peak_to_trough < 1 or period_s <= 0:
        raise ValueError("a day needs peak_to_trough of at least 1 and a positive period")
    swing = (peak_to_trough - 1) / (peak_to_trough + 1)
    top = period_s / 2 if peak_s is None else peak_s
    return lambda t: mean_rate * (1 + swing * np.cos(2 * np.pi * (t - top) / period_s))


def flash_sale(base_rate: float, peak_rate: float, at_s: float, decay_s: float) -> Curve:
    """`base_rate` until `at_s`, then a step to `peak_rate` that decays back with the time constant `decay_s`."""
    if decay_s <= 0:
        raise ValueError("a flash sale needs a positive decay")
    return lambda t: (
        base_rate + np.where(t >= at_s, (peak_rate - base_rate) * np.exp(-np.maximum(t - at_s, 0.0) / decay_s), 0.0)
    )


def offsets(curve: Curve, duration_s: float, rng: np.random.Generator, cv: float = 1.0) -> NDArray[np.float64]:
    """Sorted offsets in seconds, float64 [N], of arrivals along `curve` within `duration_s`.

    `cv` is the coefficient of variation of the intervals (standard deviation over mean) where the curve is flat.
    Raises ValueError for a negative rate, cv or duration.
    """
    if cv < 0 or duration_s < 0:
        raise ValueError("cv and duration must not be negative")
    grid = np.linspace(0.0, duration_s, CURVE_POINTS + 1)
    middles = (grid[:-1] + grid[1:]) / 2
    rates = curve(middles)
    if rates.size and rates.min() < 0:
        raise ValueError("a rate must not be negative")
    expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(grid))])
    total = float(expected[-1])
    found: list[NDArray[np.float64]] = []
    at = 0.0
    while at < total:
        batch = int((total - at) * 1.05 + 3 * cv * np.sqrt(total) + 16)
        times = at + np.cumsum(_intervals(batch, cv, rng))
        found.append(times)
        at = float(times[-1])
    unit = np.concatenate(found) if found else np.empty(0)
    return np.interp(unit[unit < total], expected, grid)


def _intervals(count: int, cv: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Intervals of mean 1: Gamma with shape 1/cv² and scale cv²; all alike below a cv of 0.001."""
    if cv < 0.001:
        return np.ones(count)
    return rng.gamma(1 / cv**2, cv**2, count)


def generated(
    curve: Curve, duration_s: float, seed: int, *, cv: float = 1.0, asked: Asked | None = None
) -> list[Arrival]:
    """Arrivals along `curve`, with what they ask drawn from `asked`."""
    rng = np.random.default_rng(seed)
    times = offsets(curve, duration_s, rng, cv)
    return _dressed(((float(at), None) for at in times), len(times), asked or Asked(), rng)


def from_trace(
    recorded: Sequence[Recorded],
    seed: int,
    *,
    asked: Asked | None = None,
    images: ImagesAs = "garments",
    spread_s: float | None = None,
) -> list[Arrival]:
    """Arrivals of a recorded trace.

    `images` says what a row's number of images means here: `garments` (one try-on with that many garments, at
    most 6), `requests` (that many try-ons at once, garments drawn from the mix) or `ignored`. What a row does
    not say is drawn from `asked`. `spread_s` moves each arrival by up to so many seconds, drawn evenly; by
    default one second when every stamp is a whole second: stamps rounded down are not simultaneous requests.
    """
    rng = np.random.default_rng(seed)
    if spread_s is None:
        whole = all(row.offset_s == int(row.offset_s) for row in recorded)
        spread_s = 1.0 if whole else 0.0
    moves = rng.uniform(0.0, spread_s, len(recorded)) if spread_s else np.zeros(len(recorded))
    rows: list[tuple[float, Recorded | None]] = []
    for row, move in zip(recorded, moves, strict=True):
        copies = max(1, row.images or 1) if images == "requests" else 1
        rows += [(row.offset_s + float(move), row)] * copies
    rows.sort(key=lambda pair: pair[0])
    return _dressed(rows, len(rows), asked or Asked(), rng, from_images=images == "garments")


def _dressed(
    rows: Iterable[tuple[float, Recorded | None]],
    count: int,
    asked: Asked,
    rng: np.random.Generator,
    from_images: bool = False,
) -> list[Arrival]:
    mixes = (mix.draw(count, rng) for mix in (asked.garments, asked.priorities, asked.sizes))
    arrivals = []
    for (at, row), garments, priority, size in zip(rows, *mixes, strict=True):
        if row is not None:
            said = row.garments or (row.images if from_images else None)
            garments = garments if said is None else min(max(said, 1), MAX_GARMENTS)
            priority, size = row.priority or priority, row.size or size
        arrivals.append(Arrival(at, garments, priority, size, None if row is None else row.service_s))
    return arrivals


def window(
    arrivals: Sequence[Arrival], *, start_s: float = 0.0, duration_s: float | None = None, speed: float = 1.0
) -> list[Arrival]:
    """The arrivals from `start_s` on, `speed` times as fast, for `duration_s` seconds after the speed-up."""
    if speed <= 0:
        raise ValueError("speed must be positive")
    end = float("inf") if duration_s is None else duration_s
    moved = (
        Arrival((one.offset_s - start_s) / speed, one.garments, one.priority, one.size, one.service_s)
        for one in arrivals
        if one.offset_s >= start_s
    )
    return [one for one in moved if one.offset_s < end]


def busiest(arrivals: Sequence[Arrival], length_s: float) -> float:
    """Where the window of `length_s` seconds with the most arrivals begins, in seconds. Raises ValueError if empty."""
    if not arrivals:
        raise ValueError("there are no arrivals")
    times = np.asarray([one.offset_s for one in arrivals])
    inside = np.searchsorted(times, times + length_s, side="left") - np.arange(len(times))
    return float(times[int(np.argmax(inside))])
