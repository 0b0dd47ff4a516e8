"""From the measured service to tens of millions of requests a day, on paper, with every step of the arithmetic.

The day becomes its peak rate; the peak becomes GPUs by the Allen-Cunneen approximation of G/G/c (see `queueing`);
the same peak is then simulated on that many GPUs, so that paper and simulation stand beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from loadtests.capacity.fleet import SimulatedFleet
from loadtests.capacity.plan import CapacityRow, NotEnough, row_of, sized
from loadtests.capacity.queueing import Station, smallest
from loadtests.capacity.service_times import ServiceTimes
from loadtests.capacity.simulation import simulate
from loadtests.traffic.arrivals import Asked, Mix, generated, steady

DAY_S = 86_400
MOST_REQUESTS = 150_000
WARM_SHARE = 0.2


@dataclass(frozen=True)
class Day:
    """A day of traffic: requests, how many times the mean the peak is, its burstiness, and the spare share of GPUs."""

    requests: int
    peak: float = 3.0
    arrival_cv2: float = 1.0
    spare: float = 0.1


@dataclass(frozen=True)
class Scale:
    """The answer: `needed` GPUs at the peak, `with_spare` to buy; `lines` is the arithmetic; `simulated` its check."""

    requests_per_day: int
    mean_rate: float
    peak_rate: float
    seconds: float
    service_cv2: float
    load: float
    needed: int
    with_spare: int
    utilisation: float
    mean_wait_s: float
    wait_quantile_s: float
    gpu_hours_per_day: float
    simulated: CapacityRow
    simulated_requests: int
    lines: tuple[str, ...]


def scale(
    day: Day,
    times: ServiceTimes,
    mix: Mapping[int, float],
    bound_s: float,
    q: float = 0.95,
    *,
    fleet: SimulatedFleet | None = None,
    seed: int = 0,
) -> Scale:
    """GPUs for `day` when a share `q` of requests with this mix of garments must end within `bound_s`.

    The bound less everything that is not waiting (the slowest share 1-q of engine times, intake, preparing,
    storing) is what a request may wait; taking both tails as if they came together errs on the safe side.
    Requests are taken to run alone: batching only helps. Raises NotEnough when nothing is left to wait.
    """
    seconds, service_cv2 = times.moments(mix)
    seconds += times.turnaround_s
    mean_rate = day.requests / DAY_S
    peak_rate = mean_rate * day.peak
    load = peak_rate * seconds
    engine_q = _engine_quantile(times, mix, q)
    around = times.intake_s + times.prepare_s + times.settle_s
    may_wait = bound_s - engine_q - around
    if may_wait < 0:
        raise NotEnough(f"{engine_q + around:.2f} s pass without any waiting; no number of GPUs keeps {bound_s:g} s")
    needed = smallest(peak_rate, seconds, may_wait, q, (day.arrival_cv2, service_cv2))
    station = Station(needed, peak_rate, seconds, day.arrival_cv2, service_cv2)
    with_spare = math.ceil(needed * (1 + day.spare))
    row, count = _simulated(day, times, mix, fleet or SimulatedFleet(needed), needed, peak_rate, seed)
    beta = (needed - load) / math.sqrt(load)
    hours = day.requests * seconds / 3600
    lines = (
        f"{day.requests:,} requests a day / {DAY_S:,} s = {mean_rate:,.1f}/s in the mean",
        f"times a peak of {day.peak:g} = {peak_rate:,.1f}/s",
        f"times {seconds:.4g} GPU seconds a request = {load:,.1f} GPUs of work at the peak (R)",
        f"p{q * 100:g} within {bound_s:g} s, less {engine_q:.3g} s in the engine (its own p{q * 100:g}) and "
        f"{around:.3g} s around it, leaves {may_wait:.3g} s to wait",
        f"variability: arrivals c_a² = {day.arrival_cv2:.3g}, engine c_s² = {service_cv2:.3g}; Allen-Cunneen: "
        "Wq = (c_a² + c_s²)/2 · C(c, R)/(c/s - R/s), C by Erlang",
        f"smallest c whose p{q * 100:g} wait fits: {needed:,} GPUs, {station.utilisation:.1%} busy, "
        f"mean wait {station.mean_wait():.3g} s, p{q * 100:g} {station.wait_quantile(q):.3g} s",
        f"square-root staffing (Halfin, Whitt 1981): c = R + β√R with β = {beta:.2f}, √R = {math.sqrt(load):.1f}",
        f"with {day.spare:.0%} spare for failures, deployments and drains: {with_spare:,} GPUs",
        f"busy GPU hours a day: {day.requests:,} · {seconds:.4g} s / 3600 = {hours:,.0f}; a fixed fleet pays "
        f"{with_spare * 24:,}, {hours / (with_spare * 24):.0%} of it used; autoscaling can win back the rest",
        f"simulated at the peak on {needed:,} GPUs, {count:,} requests: p50 {row.p50_s:.3g} s, p95 {row.p95_s:.3g} s, "
        f"p99 {row.p99_s:.3g} s, {row.unserved:.2%} unserved, {row.utilisation:.1%} busy",
    )
    return Scale(
        requests_per_day=day.requests,
        mean_rate=mean_rate,
        peak_rate=peak_rate,
        seconds=seconds,
        service_cv2=service_cv2,
        load=load,
        needed=needed,
        with_spare=with_spare,
        utilisation=station.utilisation,
        mean_wait_s=station.mean_wait(),
        wait_quantile_s=station.wait_quantile(q),
        gpu_hours_per_day=hours,
        simulated=row,
        simulated_requests=count,
        lines=lines,
    )


def _engine_quantile(times: ServiceTimes, mix: Mapping[int, float], q: float) -> float:
    """The engine seconds that a share q of the mix does not exceed."""
    means = np.array([times.mean([garments]) for garments in mix])
    values = np.outer(means, np.array(times.spread))
    weights = np.repeat(np.array(list(mix.values())) / len(times.spread), len(times.spread))
    order = np.argsort(values.ravel())
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values.ravel()[order][np.searchsorted(reached, min(q, reached[-1]))])


def _simulated(
    day: Day, times: ServiceTimes, mix: Mapping[int, float], fleet: SimulatedFleet, gpus: int, rate: float, seed: int
) -> tuple[CapacityRow, int]:
    """The peak held for up to MOST_REQUESTS requests on a fleet that was warmed up before."""
    asked = Asked(garments=Mix(tuple(mix), tuple(mix.values())))
    length = MOST_REQUESTS / rate
    arrivals = generated(steady(rate), length, seed, cv=math.sqrt(day.arrival_cv2), asked=asked)
    outcome = simulate(arrivals, times, sized(replace(fleet, max_in_flight=0), gpus), seed=seed)
    warm = int(WARM_SHARE * len(arrivals))
    late = replace(
        outcome,
        status=outcome.status[warm:],
        offset=outcome.offset[warm:],
        latency=outcome.latency[warm:],
        wait=outcome.wait[warm:],
    )
    return row_of(late, length), len(arrivals)
