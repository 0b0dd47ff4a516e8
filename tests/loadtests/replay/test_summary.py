"""From outcomes to numbers, and from numbers to a verdict."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.plots import nice_ticks, time_ticks
from loadtests.replay.open_loop import RunRecord
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.summary import FEWEST_BINS, MOST_BINS, bin_width, spread, summarise
from loadtests.replay.verdict import Objectives, judge, seconds, share, share_text, time_text


def outcome(index: int, end: str, due_at: float, latency: float = 1.0, **more: object) -> ClientOutcome:
    found = ClientOutcome(index, due_at, 1 + index % 3, "normal", None, latency=latency, late=0.002, attempts=1)
    found.end = end  # type: ignore[assignment]
    for name, value in more.items():
        setattr(found, name, value)
    return found


def record(*outcomes: ClientOutcome, planned: int | None = None) -> RunRecord:
    found = RunRecord(datetime(2026, 11, 21, tzinfo=UTC), planned or len(outcomes), list(outcomes))
    found.wall_s = max((one.ended_at for one in outcomes), default=0.0)
    found.interrupted = planned is not None
    return found


MIXED = record(
    *[outcome(i, "succeeded", i * 0.5, 0.1 * (i + 1)) for i in range(16)],
    outcome(16, "failed", 8.0, code="engine-failed"),
    outcome(17, "unreachable", 8.5),
    outcome(18, "rejected", 9.0, 0.05, code="queue-full", rejections=[(503, 0.02, 0.01), (503, 0.05, 0.03)]),
    outcome(19, "gave up", 9.5, 3.0),
)


def test_shares_and_percentiles_of_a_run() -> None:
    found = summarise(MIXED)
    assert found.ends == {"succeeded": 16, "failed": 1, "unreachable": 1, "rejected": 1, "gave up": 1}
    assert found.codes == {"failed": {"engine-failed": 1}, "rejected": {"queue-full": 1}}
    assert found.availability == 16 / 18
    assert (found.rejected_share, found.gave_up_share) == (1 / 20, 1 / 20)
    assert found.latency.p50 == pytest.approx(0.85)
    assert found.latency.max == pytest.approx(1.6)
    assert found.time_to_reject.count == 2
    assert {name: s.count for name, s in found.by_garments.items()} == {"1": 6, "2": 5, "3": 5}
    assert found.offered_rate == 20 / 9.5
    assert found.goodput == 16 / 12.5


def test_bins_lose_nothing() -> None:
    found = summarise(MIXED)
    assert sum(one.offered for one in found.bins) * found.bin_s == pytest.approx(20)
    assert sum(one.succeeded for one in found.bins) * found.bin_s == pytest.approx(16)
    assert sum(one.latency.count for one in found.bins) == 16
    totals: dict[str, int] = {}
    for one in found.bins:
        for name, count in one.ends.items():
            totals[name] = totals.get(name, 0) + count
    assert totals == {"failed": 1, "unreachable": 1, "rejected 503": 2, "gave up": 1}


def test_an_empty_and_an_unfinished_run_have_no_latency() -> None:
    for nothing in (record(planned=5), record(outcome(0, "unfinished", 0.0), planned=5)):
        found = summarise(nothing)
        assert (found.latency.count, found.availability, found.rejected_share) == (0, None, 0.0)
        verdict = judge(found, Objectives(p95_s=8.0, availability=0.99))
        assert verdict.passed is False
        assert "Ended by hand" in verdict.warnings[0]


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 1e4), min_size=1, max_size=200))
def test_percentiles_are_ordered_and_inside(values: list[float]) -> None:
    found = spread(values)
    cuts = [found.p5, found.p50, found.p90, found.p95, found.p99, found.p999, found.max]
    numbers = [cut for cut in cuts if cut is not None]
    assert len(numbers) == 7
    assert all(b >= a - 1e-9 * max(1.0, a) for a, b in pairwise(numbers))
    assert found.max == max(values)
    assert found.p50 == pytest.approx(float(np.median(values)))


@settings(max_examples=50, deadline=None)
@given(length=st.floats(0.1, 3e6), count=st.integers(0, 10**6))
def test_a_run_is_cut_into_a_readable_number_of_bins(length: float, count: int) -> None:
    width = bin_width(length, count)
    assert length / width <= MOST_BINS
    if count >= MOST_BINS * 20 and 60 <= length <= 3e5:
        assert length / width >= FEWEST_BINS


def test_objectives_pass_and_fail_by_what_was_measured() -> None:
    found = summarise(MIXED)
    good = Objectives(
        p50_s=1.0, p95_s=2.0, p99_s=2.0, availability=0.85, max_rejected=0.05, max_gave_up=0.05,
        reject_within_s=0.1, min_goodput=1.0,
    )  # fmt: skip
    verdict = judge(found, good)
    assert (verdict.word, verdict.passed, len(verdict.checks)) == ("passed", True, 8)
    for name, bound in (
        ("p50_s", 0.8), ("p95_s", 1.5), ("p99_s", 1.5), ("availability", 0.9), ("max_rejected", 0.04),
        ("max_gave_up", 0.04), ("reject_within_s", 0.02), ("min_goodput", 2.0),
    ):  # fmt: skip
        verdict = judge(found, Objectives(**{name: bound}))
        assert (verdict.word, verdict.passed) == ("failed", False), name
    assert judge(found, Objectives()).passed is None


def test_a_late_generator_makes_a_run_invalid() -> None:
    late = record(*[outcome(i, "succeeded", float(i), late=0.3) for i in range(10)])
    verdict = judge(summarise(late), Objectives(p95_s=8.0, max_late_s=0.1))
    assert (verdict.word, verdict.valid, verdict.passed) == ("invalid", False, False)
    assert "300 ms" in verdict.warnings[0]


@pytest.mark.parametrize(
    ("text", "value"), [("8s", 8), ("800ms", 0.8), ("2m", 120), ("1.5h", 5400), ("1d", 86_400), ("3", 3)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


def test_shares_and_durations_refuse_nonsense() -> None:
    assert (share("99.9%"), share("0.5")) == (pytest.approx(0.999), 0.5)
    for reader, texts in ((seconds, ("", "8 parsecs", "-1s", "s")), (share, ("", "101%", "-1", "nan", "all"))):
        for text in texts:
            with pytest.raises(ValueError, match=r"."):
                reader(text)
    assert [time_text(value) for value in (None, 0.085, 0.9999, 1.236, 95.4)] == [
        "none",
        "85 ms",
        "1.00 s",
        "1.24 s",
        "95 s",
    ]
    assert [share_text(value) for value in (None, 0.99934, 1.0)] == ["none", "99.93%", "100%"]


@settings(max_examples=100, deadline=None)
@given(top=st.floats(1e-3, 1e6), whole=st.booleans())
def test_ticks_are_round_few_and_reach_the_top(top: float, whole: bool) -> None:
    ticks = nice_ticks(top, whole=whole)
    assert ticks[0] == 0 and ticks[-1] >= top * (1 - 1e-9)
    assert 2 <= len(ticks) <= 7
    assert not whole or all(tick == int(tick) for tick in ticks)


@settings(max_examples=100, deadline=None)
@given(length=st.floats(1, 5e6))
def test_time_ticks_stay_inside_and_differ(length: float) -> None:
    ticks, text = time_ticks(length)
    assert 1 <= len(ticks) <= 10
    assert ticks[0] == 0 and ticks[-1] <= length
    assert len({text(tick) for tick in ticks}) == len(ticks)
