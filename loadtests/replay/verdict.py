"""What a run has to reach, and whether it did."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.replay.summary import Summary

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}


def seconds(text: str) -> float:
    """`8s`, `800ms`, `2m`, `1h`, `1d` or a bare number of seconds. Raises ValueError."""
    found = _DURATION.match(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a duration such as 8s, 800ms or 2m")
    return float(found[1]) * _UNITS[found[2]]


def share(text: str) -> float:
    """`99.9%` or `0.999` as 0.999. Raises ValueError outside 0 to 1."""
    number = text.strip()
    value = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share such as 99.9% or 0.999")
    return value


@dataclass(frozen=True)
class Objectives:
    """Bounds in seconds, shares of 0 to 1 and try-ons a second; None is not asked for."""

    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    availability: float | None = None
    max_rejected: float | None = None
    max_gave_up: float | None = None
    reject_within_s: float | None = None
    min_goodput: float | None = None
    max_late_s: float = 0.1


@dataclass(frozen=True)
class Check:
    """One objective: its sentence, what was measured (None: nothing to measure) and whether that is enough."""

    name: str
    wanted: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """`passed` is None when nothing was asked; an invalid run passes nothing."""

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    valid: bool

    @property
    def passed(self) -> bool | None:
        if not self.checks:
            return None
        return self.valid and all(check.passed for check in self.checks)

    @property
    def word(self) -> str:
        if not self.valid:
            return "invalid"
        return {None: "no objectives", True: "passed", False: "failed"}[self.passed]

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.word,
            "passed": self.passed,
            "valid": self.valid,
            "checks": [vars(check) for check in self.checks],
            "warnings": list(self.warnings),
        }


def time_text(value: float | None) -> str:
    """Seconds for people: `85 ms`, `1.24 s`, `95 s`."""
    if value is None:
        return "none"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 20 else f"{value:.0f} s"


def share_text(value: float | None) -> str:
    """A share for people: `99.93%`."""
    return "none" if value is None else f"{round(value * 100, 2):g}%"


def judge(summary: Summary, objectives: Objectives) -> Verdict:
    """Compare a summary with its objectives. What was asked for and cannot be measured has failed."""
    checks: list[Check] = []

    def check(
        name: str, bound: float | None, measured: float | None, text: Callable[[float | None], str], most: bool
    ) -> None:
        if bound is None:
            return
        good = measured is not None and (measured <= bound if most else measured >= bound)
        checks.append(Check(name, f"{'at most' if most else 'at least'} {text(bound)}", text(measured), good))

    latency = summary.latency
    check("p50 latency", objectives.p50_s, latency.p50, time_text, True)
    check("p95 latency", objectives.p95_s, latency.p95, time_text, True)
    check("p99 latency", objectives.p99_s, latency.p99, time_text, True)
    check("availability", objectives.availability, summary.availability, share_text, False)
    check("rejected", objectives.max_rejected, summary.rejected_share, share_text, True)
    check("gave up", objectives.max_gave_up, summary.gave_up_share, share_text, True)
    reject = summary.time_to_reject.p99 if summary.time_to_reject.count else 0.0
    check("p99 time to reject", objectives.reject_within_s, reject, time_text, True)
    check("goodput", objectives.min_goodput, summary.goodput, lambda rate: f"{rate or 0:.2f}/s", False)

    warnings = []
    late = summary.lateness.p99
    valid = late is None or late <= objectives.max_late_s
    if not valid:
        warnings.append(
            f"The generator itself was late: p99 {time_text(late)} after a try-on was due (limit "
            f"{time_text(objectives.max_late_s)}). The latencies include that, so this run is invalid; use a faster "
            "or emptier machine, more --connections, or less traffic."
        )
    if summary.gave_up_share > 0.01 and latency.count:
        warnings.append(
            f"{share_text(summary.gave_up_share)} of the clients gave up before an end. Latencies count only the "
            "others and flatter the service by that."
        )
    if summary.interrupted:
        warnings.append(f"Ended by hand: {summary.offered} of {summary.planned} try-ons came due.")
    return Verdict(tuple(checks), tuple(warnings), valid)
