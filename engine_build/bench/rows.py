"""What a bench found, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from engine_build.bench.plan import BenchPlan


@dataclass
class Row:
    """One mode at one size and number of garments; times in milliseconds, of which stages are the medians."""

    mode: str
    width: int
    height: int
    garments: int
    tokens: int
    status: str = "ok"
    runs: int = 0
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    floor: float | None = None
    times_floor: float | None = None
    times_faster: float | None = None


@dataclass
class AttentionRow:
    """Attention alone on one sequence: milliseconds and TFLOP/s of the kernels and of torch's SDPA, by `sdpa`.

    `floor_ms` is what arithmetic allows an H200; `times_floor` is told on a GPU only.
    """

    tokens: int
    kernels: str
    ours_ms: float
    ours_tflops: float
    sdpa: str
    sdpa_ms: float
    sdpa_tflops: float
    floor_ms: float
    times_floor: float | None = None


@dataclass
class PackedRow:
    """Several requests in one batch of an engine."""

    mode: str
    width: int
    height: int
    requests: int
    status: str = "ok"
    images_per_second: float | None = None


@dataclass(frozen=True)
class Goal:
    """A stated goal, what was measured of it, and whether that reaches it; None where nothing was measured."""

    name: str
    bound: float
    measured: float | None
    reached: bool | None


@dataclass
class Results:
    """Everything one run found."""

    plan: BenchPlan
    weights: str
    rows: list[Row] = field(default_factory=list)
    attention: list[AttentionRow] = field(default_factory=list)
    packed: list[PackedRow] = field(default_factory=list)


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80 in milliseconds."""
    if len(seconds) == 1:
        return (seconds[0] * 1e3,) * 3
    cut = quantiles(seconds, n=10, method="inclusive")
    return cut[1] * 1e3, cut[4] * 1e3, cut[7] * 1e3
