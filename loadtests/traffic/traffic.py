"""The traffic of a replay as its options say it: a shape or a trace, turned into arrivals and into a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loadtests.traffic.arrivals import (
    MAX_GARMENTS,
    PRIORITIES,
    Arrival,
    Asked,
    Curve,
    ImagesAs,
    Mix,
    busiest,
    diurnal,
    flash_sale,
    from_trace,
    generated,
    parse_mix,
    steady,
    window,
)
from loadtests.traffic.trace_files import read_trace

Shape = Literal["poisson", "diurnal", "flash-sale"]
DEFAULT_DURATION_S = 60.0


@dataclass(frozen=True)
class Traffic:
    """Times in seconds, rates in try-ons a second; None takes the default its command's help names."""

    shape: Shape = "poisson"
    rate: float = 1.0
    duration_s: float | None = None
    cv: float = 1.0
    peak_to_trough: float = 10.0
    period_s: float | None = None
    peak_rate: float | None = None
    sale_at_s: float | None = None
    decay_s: float | None = None
    trace: Path | None = None
    speed: float = 1.0
    start_s: float = 0.0
    busiest: bool = False
    images: ImagesAs = "garments"
    seed: int = 0
    asked: Asked = field(default_factory=Asked)

    @property
    def length_s(self) -> float:
        return DEFAULT_DURATION_S if self.duration_s is None else self.duration_s

    def arrivals(self) -> list[Arrival]:
        """The arrivals in the order of their time. Raises ValueError, TraceError or OSError."""
        if self.trace is None:
            return generated(self._curve(), self.length_s, self.seed, cv=self.cv, asked=self.asked)
        recorded = from_trace(read_trace(self.trace), self.seed, asked=self.asked, images=self.images)
        start = busiest(recorded, self.length_s * self.speed) if self.busiest else self.start_s
        found = window(recorded, start_s=start, duration_s=self.duration_s, speed=self.speed)
        if not found:
            raise ValueError(f"{self.trace}: no request after {start:g} s")
        return found

    def sentence(self) -> str:
        """What the traffic is, in a few words."""
        if self.trace is not None:
            part = "busiest window" if self.busiest else f"from {self.start_s:g} s on"
            return f"trace {self.trace.name}, {part}, {self.speed:g} times as fast"
        bursts = "Poisson" if self.cv == 1 else f"intervals with a CV of {self.cv:g}"
        if self.shape == "diurnal":
            return f"{bursts}, diurnal around {self.rate:g}/s, peak {self.peak_to_trough:g} times the trough"
        if self.shape == "flash-sale":
            peak, at, decay = self._sale()
            return f"{bursts}, {self.rate:g}/s, at {at:g} s a sale of {peak:g}/s that decays with {decay:g} s"
        return f"{bursts}, {self.rate:g}/s"

    def _sale(self) -> tuple[float, float, float]:
        """Peak rate, start and decay of a flash sale."""
        peak = 10 * self.rate if self.peak_rate is None else self.peak_rate
        at = self.length_s / 4 if self.sale_at_s is None else self.sale_at_s
        return peak, at, self.length_s / 8 if self.decay_s is None else self.decay_s

    def _curve(self) -> Curve:
        if self.shape == "diurnal":
            return diurnal(self.rate, self.peak_to_trough, self.period_s or self.length_s)
        if self.shape == "flash-sale":
            peak, at, decay = self._sale()
            return flash_sale(self.rate, peak, at, decay)
        return steady(self.rate)


def asked(garments: str, sizes: str, priorities: str) -> Asked:
    """What try-ons ask for, from three mixes as text. Raises ValueError naming what is wrong."""
    counts, kinds, pixels = parse_mix(garments), parse_mix(priorities), parse_mix(sizes)
    numbers = tuple(int(value) for value in counts.values)
    if any(not 1 <= number <= MAX_GARMENTS for number in numbers):
        raise ValueError(f"garments: {garments!r} has a count outside 1 to {MAX_GARMENTS}")
    if any(name not in PRIORITIES for name in kinds.values):
        raise ValueError(f"priorities: choose from {', '.join(PRIORITIES)}")
    chosen = tuple(None if value == "default" else value for value in pixels.values)
    for size in filter(None, chosen):
        width, cross, height = size.partition("x")
        if not (cross and width.isdigit() and height.isdigit()):
            raise ValueError(f"sizes: {size!r} is not WIDTHxHEIGHT")
    return Asked(Mix(numbers, counts.weights), kinds, Mix(chosen, pixels.weights))
