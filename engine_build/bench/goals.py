"""The stated goals of one H200, beside what a bench measured: reached, missed, or not measured, never left out.

Milliseconds are end to end at 1024x1024, of the median. `joint` is exact for stock klein weights, `reference KV` for
weights trained with it, `cached references` for those whose references attend only themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import ge, le

from engine_build.bench.rows import Goal, Results, Row

SIZE = (1024, 1024)
EXACT = ("triton", "triton-tma")  # like for like with diffusers
PAPER = {1: 3920.0, 5: 6740.0}  # ms of the try-on paper's service on an H200 (arXiv 2604.19748)
_CACHED = ("triton + cached references", "triton + cached references + FP8")
_KLEIN: tuple[tuple[str, tuple[str, ...], dict[int, float]], ...] = (
    ("like for like, bf16", EXACT, {1: 600.0, 5: 965.0}),
    ("reference KV and FP8", ("triton + reference KV + FP8",), {1: 300.0, 5: 410.0}),
    ("cached references", _CACHED, {1: 235.0, 5: 275.0}),
)
_FASTEST = (*EXACT, "triton + reference KV", "triton + cached references")  # exact, each for its kind of checkpoint
_ATTENTION = 500.0  # TFLOP/s


def goals_of(results: Results) -> list[Goal]:
    """The goals of the preset that was measured; none for any other subject."""
    preset, goals = results.plan.preset, []

    def fastest(modes: tuple[str, ...], garments: int) -> float | None:
        return _least(row for row in results.rows if _is(row, garments) and row.mode in modes)

    def add(name: str, bound: float, measured: float | None, good: Callable[[float, float], bool]) -> None:
        goals.append(Goal(name, bound, measured, None if measured is None else good(measured, bound)))

    if not results.weights.startswith(preset) or preset not in ("klein-4b", "tstars-5b"):
        return []
    if preset == "klein-4b":
        for name, modes, bounds in _KLEIN:
            for garments, bound in bounds.items():
                add(f"ms, {name}, {garments} garments", bound, fastest(modes, garments), le)
        for name, modes, base, times in (
            ("torch.compile of diffusers, like for like", EXACT, "diffusers + torch.compile", 1.25),
            ("diffusers eager, fastest exact mode", _FASTEST, "diffusers", 3.0),
        ):
            for garments in (1, 5):
                ours, theirs = fastest(modes, garments), fastest((base,), garments)
                ratio = theirs / ours if ours and theirs else None
                add(f"times faster than {name}, {garments} garments", times, ratio, ge)
    else:
        for garments, before in PAPER.items():
            own = fastest(_CACHED, garments)
            ratio = before / own if own else None
            add(f"times faster than the paper's {before / 1e3:g} s, {garments} garments cached", 10.0, ratio, ge)
    best = max((row.ours_tflops for row in results.attention if row.kernels in EXACT), default=None)
    add("TFLOP/s of attention alone", _ATTENTION, best, ge)
    return goals


def _is(row: Row, garments: int) -> bool:
    return (row.width, row.height) == SIZE and row.garments == garments


def _least(rows: Iterable[Row]) -> float | None:
    return min((row.p50 for row in rows if row.p50), default=None)
