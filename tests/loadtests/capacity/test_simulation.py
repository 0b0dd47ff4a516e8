"""The simulation against closed forms of queueing theory, its books, and its seed."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.capacity.fleet import CONCURRENCY, EXPIRED, FAILED, FULL, RATE, STATUS, SUCCEEDED, SimulatedFleet
from loadtests.capacity.queueing import Station, erlang_c, smallest
from loadtests.capacity.service_times import ServiceTimes
from loadtests.capacity.simulation import simulate
from loadtests.traffic.arrivals import Arrival, Asked, Mix, generated, steady

ONE = Asked(garments=Mix((1,), (1.0,)))
ALONE = {"max_jobs": 1, "max_in_flight": 0, "deadline_s": 1e9}
EXPONENTIAL = tuple(-np.log(1 - (np.arange(4000) + 0.5) / 4000) / 0.99991)


def flat(seconds: float, spread: tuple[float, ...] = (1.0,), **around: float) -> ServiceTimes:
    return ServiceTimes(0.0, (seconds,) * 6, spread, lead=0.0, **around)


def poisson(rate: float, count: int, seed: int = 1) -> list[Arrival]:
    return generated(steady(rate), count / rate, seed, asked=ONE)


def mean_wait(rate: float, times: ServiceTimes, gpus: int, count: int = 60_000) -> float:
    """Mean over five seeds, the first tenth of each left out."""
    waits = [
        simulate(poisson(rate, count // 5, seed), times, SimulatedFleet(gpus, **ALONE), seed=seed)
        .wait[count // 50 :]
        .mean()
        for seed in range(1, 6)
    ]
    return float(np.mean(waits))


@pytest.mark.parametrize(
    ("gpus", "utilisation", "spread", "cv2"),
    [
        pytest.param(1, 0.6, EXPONENTIAL, 1.0, id="M/M/1"),
        pytest.param(1, 0.6, (1.0,), 0.0, id="M/D/1"),
        pytest.param(4, 0.75, EXPONENTIAL, 1.0, id="M/M/4"),
    ],
)
def test_waits_as_the_closed_form_says(gpus: int, utilisation: float, spread: tuple[float, ...], cv2: float) -> None:
    expected = Station(gpus, utilisation * gpus, 1.0, service_cv2=cv2).mean_wait()
    assert mean_wait(utilisation * gpus, flat(1.0, spread), gpus) == pytest.approx(expected, rel=0.05)


def test_tail_of_m_m_4() -> None:
    outcome = simulate(poisson(3.0, 40_000), flat(1.0, EXPONENTIAL), SimulatedFleet(4, **ALONE))
    found = np.quantile(outcome.wait[4000:], 0.95)
    assert found == pytest.approx(Station(4, 3.0, 1.0).wait_quantile(0.95), rel=0.1)


def test_utilisation_is_the_offered_load() -> None:
    outcome = simulate(poisson(3.0, 20_000), flat(1.0), SimulatedFleet(4, **ALONE))
    assert outcome.utilisation == pytest.approx(0.75, rel=0.03)


def test_erlang_c_of_the_textbook() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10_000, 9_900.0) == pytest.approx(0.22, abs=0.02)


def test_smallest_is_the_first_that_keeps_the_objective() -> None:
    found = smallest(10.0, 1.0, 0.5, 0.95)
    assert Station(found, 10.0, 1.0).wait_quantile(0.95) <= 0.5 < Station(found - 1, 10.0, 1.0).wait_quantile(0.95)


def test_every_arrival_is_accounted_for_under_crashes_overload_and_limits() -> None:
    arrivals = generated(
        steady(6.0), 600.0, 3, cv=2.0, asked=Asked(priorities=Mix(("high", "normal", "low"), (1, 2, 1)))
    )
    tenants = ["greedy" if index % 4 else "polite" for index in range(len(arrivals))]
    fleet = SimulatedFleet(
        3,
        max_in_flight=60,
        concurrency=36,
        rate_per_minute=150,
        deadline_s=20.0,
        max_attempts=2,
        mean_time_to_failure_s=20.0,
        restart_s=5.0,
        lease_s=5.0,
    )
    times = ServiceTimes(0.3, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 1.5), 0.05, 0.02, 0.03, 0.01)
    outcome = simulate(arrivals, times, fleet, seed=5, tenants=tenants)
    counts = {name: outcome.count(index) for index, name in enumerate(STATUS)}
    assert sum(counts.values()) == len(arrivals)
    assert min(outcome.count(kind) for kind in (SUCCEEDED, EXPIRED, FAILED, FULL, CONCURRENCY, RATE)) > 0, counts
    assert np.isfinite(outcome.latency).sum() == counts["succeeded"]
    assert outcome.lost_leases > 0 and 0 < outcome.utilisation <= 1
    assert outcome.latency[outcome.status == SUCCEEDED].min() > 0.449


def test_one_seed_one_outcome() -> None:
    arrivals = generated(steady(3.0), 200.0, 3)
    times = ServiceTimes(0.1, (0.4,) * 6, (0.5, 1.0, 1.5))
    fleet = SimulatedFleet(2, mean_time_to_failure_s=60.0)
    first, again, other = (simulate(arrivals, times, fleet, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.latency, again.latency, equal_nan=True)
    assert not np.array_equal(first.latency, other.latency, equal_nan=True)


def test_batches_fill_the_token_budget_and_share_the_fixed_part() -> None:
    burst = [Arrival(0.0) for _ in range(8)]
    fleet = SimulatedFleet(1, tokens=0, garment_tokens=100, token_budget=400)
    outcome = simulate(burst, ServiceTimes(1.0, (0.5,) * 6, lead=0.0), fleet)
    assert outcome.batches == 3 and outcome.mean_batch == pytest.approx(8 / 3)
    assert outcome.end_s == pytest.approx(3 * 1.0 + 8 * 0.5)


def test_a_low_priority_is_overtaken_but_not_starved() -> None:
    jobs = [Arrival(0.1 * index, 1, "high" if index else "low") for index in range(600)]
    outcome = simulate(jobs, flat(0.1001), SimulatedFleet(1, **ALONE))
    late = simulate(
        [Arrival(0.0), Arrival(0.05, 1, "low"), *(Arrival(0.1 + 0.1 * k, 1, "high") for k in range(600))],
        flat(0.11),
        SimulatedFleet(1, **ALONE),
    )
    assert outcome.wait[0] == 0.0
    assert 25.0 < late.wait[1] < 40.0


def test_tenants_take_turns() -> None:
    flood = [Arrival(0.001 * index) for index in range(100)] + [Arrival(0.2)]
    tenants = ["greedy"] * 100 + ["polite"]
    fleet = SimulatedFleet(1, **ALONE)
    served = simulate(flood, flat(1.0), fleet, tenants=tenants)
    assert served.wait[100] < 5.0 < served.wait[99]


def test_backlog_limit_bounds_the_wait_of_the_accepted() -> None:
    outcome = simulate(poisson(10.0, 3000), flat(0.5), SimulatedFleet(1, max_jobs=1, max_backlog_s=5.0))
    accepted = outcome.wait[outcome.status == SUCCEEDED][100:]
    assert outcome.count(FULL) > 2000
    assert np.quantile(accepted, 0.99) < 7.0
    assert outcome.utilisation > 0.95


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="sorted"):
        simulate([Arrival(1.0), Arrival(0.0)], flat(1.0), SimulatedFleet(1))
    with pytest.raises(ValueError, match="GPU"):
        simulate([], flat(1.0), SimulatedFleet(0))
