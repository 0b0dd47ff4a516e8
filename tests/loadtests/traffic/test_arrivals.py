"""Arrivals: the rate and the burstiness that were asked for are in the samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.traffic.arrivals import (
    Arrival,
    Asked,
    Mix,
    busiest,
    diurnal,
    flash_sale,
    from_trace,
    generated,
    offsets,
    parse_mix,
    steady,
    window,
)
from loadtests.traffic.trace_files import Recorded

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, rate=st.floats(0.5, 50), cv=st.floats(0.0, 4.0))
def test_a_steady_rate_and_its_burstiness_are_in_the_samples(seed: int, rate: float, cv: float) -> None:
    count = 5_000
    times = offsets(steady(rate), count / rate, np.random.default_rng(seed), cv)
    gaps = np.diff(times)
    measured = float(gaps.std() / gaps.mean())
    # Standard errors of a renewal process: the count's is cv·sqrt(n); that of a Gamma's CV grows with its kurtosis.
    assert abs(len(times) - count) <= 6 * cv * np.sqrt(count) + 2
    assert abs(measured - cv) <= 0.03 + 6 * cv * np.sqrt((1 + 3 * cv**2) / count)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, cv=st.floats(0.0, 5.0), rate=st.floats(0.0, 30.0), duration=st.floats(0.0, 60.0))
def test_offsets_are_sorted_inside_the_run_and_repeat_with_their_seed(
    seed: int, cv: float, rate: float, duration: float
) -> None:
    times = offsets(steady(rate), duration, np.random.default_rng(seed), cv)
    assert np.all(np.diff(times) >= 0)
    assert times.size == 0 or (times[0] >= 0 and times[-1] <= duration)
    assert np.array_equal(times, offsets(steady(rate), duration, np.random.default_rng(seed), cv))


@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_a_day_has_its_peak_its_trough_and_its_mean(cv: float) -> None:
    day = 24_000.0
    times = offsets(diurnal(10.0, 9.0, day, peak_s=18_000.0), day, np.random.default_rng(5), cv)
    noise = 6 * cv / np.sqrt(240_000 / 24)
    assert len(times) / day == pytest.approx(10.0, rel=noise)
    hours = np.histogram(times, bins=24, range=(0, day))[0] / 1000.0
    assert hours[17:19].mean() == pytest.approx(18.0, rel=0.02 + noise)
    assert hours[5:7].mean() == pytest.approx(2.0, rel=0.05 + 3 * noise)


def test_a_flash_sale_steps_up_at_once_and_decays() -> None:
    times = offsets(flash_sale(5.0, 200.0, at_s=300.0, decay_s=60.0), 900.0, np.random.default_rng(9))
    before, first, later = (
        int(((times >= a) & (times < b)).sum()) for a, b in ((0, 300), (300, 301), (360, 361))
    )
    assert before == pytest.approx(1500, abs=6 * 1500**0.5)
    assert first == pytest.approx(198, abs=6 * 198**0.5)
    assert later == pytest.approx(5 + 195 / np.e, abs=6 * 77**0.5)
    total = 5 * 900 + 195 * 60 * (1 - np.exp(-10))
    assert len(times) == pytest.approx(total, abs=6 * total**0.5)


def test_mixes_are_drawn_in_their_shares_by_seed() -> None:
    asked = Asked(
        garments=Mix((1, 6), (3.0, 1.0)),
        priorities=Mix(("high", "normal"), (0.1, 0.9)),
        sizes=Mix((None, "768x1024"), (1.0, 1.0)),
    )
    arrivals = generated(steady(100.0), 100.0, 3, asked=asked)
    assert arrivals == generated(steady(100.0), 100.0, 3, asked=asked)
    assert arrivals != generated(steady(100.0), 100.0, 4, asked=asked)
    share = Counter(one.garments for one in arrivals)[6] / len(arrivals)
    assert share == pytest.approx(0.25, abs=0.03)
    assert Counter(one.priority for one in arrivals)["high"] / len(arrivals) == pytest.approx(0.1, abs=0.02)
    assert {one.size for one in arrivals} == {None, "768x1024"}


def test_a_mix_reads_shares_and_names_and_refuses_nonsense() -> None:
    assert parse_mix("1:0.5, 2:0.3,3:0.2") == Mix(("1", "2", "3"), (0.5, 0.3, 0.2))
    assert parse_mix("high,low") == Mix(("high", "low"), (1.0, 1.0))
    for text in ("", "1:x", "1:-1", "1:0", "1:inf", "1:nan"):
        with pytest.raises(ValueError, match=r"."):
            parse_mix(text)


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.floats(0, 1000), max_size=60).map(sorted),
    start=st.floats(0, 800),
    speed=st.floats(0.1, 50),
    duration=st.floats(0.1, 500),
)
def test_a_window_keeps_the_order_and_the_distances_of_what_it_shows(
    times: list[float], start: float, speed: float, duration: float
) -> None:
    arrivals = [Arrival(at, garments=1 + i % 6) for i, at in enumerate(times)]
    shown = window(arrivals, start_s=start, duration_s=duration, speed=speed)
    expected = [one for one in arrivals if one.offset_s >= start and (one.offset_s - start) / speed < duration]
    assert [one.garments for one in shown] == [one.garments for one in expected]
    assert [one.offset_s for one in shown] == pytest.approx([(one.offset_s - start) / speed for one in expected])


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.floats(0, 100), min_size=1, max_size=50).map(sorted), length=st.floats(0.1, 60))
def test_the_busiest_window_is_not_beaten_by_any_other(times: list[float], length: float) -> None:
    start = busiest([Arrival(at) for at in times], length)

    def inside(begin: float) -> int:
        return sum(begin <= at < begin + length for at in times)

    assert inside(start) == max(inside(begin) for begin in times)


def test_recorded_images_become_garments_requests_or_nothing() -> None:
    rows = [Recorded(0.25, images=1), Recorded(1.5, images=8), Recorded(2.0, images=2, garments=3, priority="high")]
    asked = Asked(garments=Mix((2,), (1.0,)))
    assert [one.garments for one in from_trace(rows, 0, asked=asked)] == [1, 6, 3]
    as_requests = from_trace(rows, 0, asked=asked, images="requests")
    assert [one.offset_s for one in as_requests] == [0.25] + [1.5] * 8 + [2.0] * 2
    assert [one.garments for one in as_requests] == [2] * 9 + [3] * 2
    assert [one.garments for one in from_trace(rows, 0, asked=asked, images="ignored")] == [2, 2, 3]
    assert from_trace(rows, 0)[2].priority == "high"


def test_whole_second_stamps_are_spread_within_their_second() -> None:
    rows = [Recorded(float(second)) for second in range(50) for _ in range(4)]
    times = [one.offset_s for one in from_trace(rows, 1)]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert Counter(int(at) for at in times) == Counter(int(row.offset_s) for row in rows)
    assert [one.offset_s for one in from_trace(rows, 1, spread_s=0.0)] == [row.offset_s for row in rows]


def test_impossible_traffic_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="rate"):
        offsets(steady(-1.0), 10.0, rng)
    with pytest.raises(ValueError, match="cv"):
        offsets(steady(1.0), 10.0, rng, cv=-1.0)
    with pytest.raises(ValueError, match="decay"):
        flash_sale(1.0, 2.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="peak_to_trough"):
        diurnal(1.0, 0.5)
    with pytest.raises(ValueError, match="no arrivals"):
        busiest([], 1.0)
