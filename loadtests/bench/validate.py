"""`make bench-capacity`: is the capacity simulation true? The service against its own simulation, on this machine.

For each engine: start the service with two workers, keep it saturated and measure what a batch takes and how long
an engine stands idle between batches (from the workers' /metrics; what a client waits beyond what the service counts
is added), then offer a bursty trace and simulate the
very same arrivals with those times. Latency p95 and throughput must agree within 10%.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median

import httpx
import numpy as np
import uvloop

from loadtests.bench.local_service import LocalService, local_service
from loadtests.bench.overload import BUSY_CLIENTS, WARM_S
from loadtests.capacity.fleet import SUCCEEDED, SimulatedFleet, packed_length
from loadtests.capacity.plan import CapacityRow, mix_of, row_of
from loadtests.capacity.service_times import Scrape, ServiceTimes, from_metrics
from loadtests.capacity.simulation import simulate
from loadtests.replay.client import Clients, Manners
from loadtests.replay.open_loop import OpenLoop
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.wire import WireTransport
from loadtests.results_file import RESULTS, machine, write_json
from loadtests.traffic.arrivals import Arrival, Asked, Mix, generated, steady
from loadtests.traffic.photos import bundled
from service.metrics import BATCH_REQUESTS, REQUEST_LATENCY, STAGE_LATENCY

WITHIN = 0.10
WORKERS = 2
SETTINGS = ("rate_per_minute=0", "concurrency_per_key=0", "stored_bytes_per_key=0")
MIX = Asked(garments=Mix((1, 2, 3), (0.5, 0.3, 0.2)))
SIMULATED_SEEDS = 9


@dataclass(frozen=True)
class Engine:
    """What is validated: a model, the burstiness of the trace, its load as a share of the measured capacity."""

    model: str
    lead: float
    cv: float
    share: float


@dataclass(frozen=True)
class Agreement:
    """Measured and simulated, seconds and rates a second; errors are relative.

    `drift` is how much longer a batch took during the trace than in the calibration before it: on a machine with
    other work that is the machine, not the service. `p95_error_before` is of the simulation with the times of the
    calibration alone, `p95_error` with those times brought to the batches of the run.
    """

    engine: Engine
    times: ServiceTimes
    capacity: float
    offered: float
    requests: int
    measured_p50_s: float
    measured_p95_s: float
    measured_throughput: float
    measured_refused: int
    simulated_p50_s: float
    simulated_p95_s: float
    simulated_throughput: float
    simulated_refused: int
    measured_batch: float
    simulated_batch: float
    drift: float
    p95_error_before: float
    p95_error: float
    throughput_error: float
    generator_late_p99_s: float

    @property
    def holds(self) -> bool:
        return abs(self.p95_error) <= WITHIN and abs(self.throughput_error) <= WITHIN


ENGINES = (
    Engine("null:4:0.25", 0.25, 1.0, 0.75),
    Engine("null:4:0.25", 0.25, 2.0, 0.7),
    Engine("nano", 0.35, 1.0, 0.6),
    Engine("nano", 0.35, 2.0, 0.6),
)


@dataclass(frozen=True)
class Held:
    """A load held for `seconds`: what the workers measured, results a second, mean latency as clients saw it."""

    scrape: Scrape
    rate: float
    seconds: float
    latency_s: float

    def edge_s(self) -> float:
        """Seconds a client waits beyond what the service counts: connection, upload, the answer's way back."""
        counts = {key: count for key, count in self.scrape.counts.items() if key[0] == REQUEST_LATENCY}
        return max(0.0, self.latency_s - sum(self.scrape.sums[key] for key in counts) / sum(counts.values()))


async def saturate(service: LocalService, clients: int, seconds: float) -> Held:
    """Keep `clients` try-ons in the service all the time; WARM_S pass before anything counts."""
    begin = time.perf_counter()
    pool = iter(generated(steady(1000.0), WARM_S + seconds + 1, 1, asked=MIX))
    latencies: list[float] = []
    marks: list[tuple[Scrape, int, float]] = []

    async def mark(at: float) -> None:
        await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
        marks.append((await service.scrape(), len(latencies), time.perf_counter()))

    async with Clients(service.url, bundled(), Manners(download=False), transport=WireTransport()) as shoppers:

        async def busy(number: int) -> None:
            turn = 0
            while time.perf_counter() < begin + WARM_S + seconds:
                arrival = next(pool)
                outcome = ClientOutcome(number * 1_000_000 + turn, 0.0, arrival.garments, arrival.priority, None)
                turn += 1
                await shoppers.try_on(arrival, outcome, time.perf_counter())
                if outcome.end == "succeeded":
                    latencies.append(outcome.latency)

        await asyncio.gather(mark(WARM_S), mark(WARM_S + seconds), *(busy(number) for number in range(clients)))
    (before, done_before, since), (after, done, until) = marks
    inside, length = latencies[done_before:done], until - since
    return Held(after.since(before), len(inside) / length, length, fmean(inside))


async def calibrate(service: LocalService, lead: float, seconds: float) -> tuple[ServiceTimes, float]:
    """Times from the workers' metrics at one client a worker and under saturation, and the measured capacity."""
    quiet = await saturate(service, 1, seconds / 2)
    busy = await saturate(service, BUSY_CLIENTS, seconds)
    idle = (WORKERS * busy.seconds - busy.scrape.busy_s) / busy.scrape.counts[BATCH_REQUESTS, ""]
    times = from_metrics(busy.scrape, quiet.scrape, turnaround_s=max(0.0, idle), lead=lead)
    around = from_metrics(quiet.scrape, lead=lead)
    times = replace(
        times, intake_s=around.intake_s, prepare_s=around.prepare_s, settle_s=around.settle_s + quiet.edge_s()
    )
    return times, busy.rate


async def fleet_of(service: LocalService, max_in_flight: int = 256) -> SimulatedFleet:
    """The fleet as its workers announce it: picture size and token budget decide what is claimed together."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        model = (await http.get("/v1/models")).raise_for_status().json()["data"][0]
    width, height = (int(side) for side in model["default_size"].split("x"))
    tokens, garment_tokens = packed_length(width, height)
    return SimulatedFleet(
        WORKERS,
        max_in_flight=max_in_flight,
        max_backlog_s=10.0,
        tokens=tokens,
        garment_tokens=garment_tokens,
        token_budget=model["token_budget"],
    )


async def compare(
    service: LocalService, engine: Engine, times: ServiceTimes, capacity: float, length: float
) -> Agreement:
    """Offer a trace and simulate it."""
    arrivals: list[Arrival] = generated(steady(engine.share * capacity), length, 5, cv=engine.cv, asked=MIX)
    before = await service.scrape()
    async with Clients(service.url, bundled(), Manners(download=False), transport=WireTransport()) as shoppers:
        record = await OpenLoop(arrivals, shoppers).run()
    seen = (await service.scrape()).since(before)
    good = [one for one in record.outcomes if one.end == "succeeded"]
    latency = np.array([one.latency for one in good])
    end = max(one.ended_at for one in good)
    fleet = await fleet_of(service)
    before_rows = _simulated(arrivals, times, fleet)
    now, drift = drifted(times, seen, mix_of(arrivals))
    runs = [simulate(arrivals, now, fleet, seed=seed) for seed in range(SIMULATED_SEEDS)]
    rows = [row_of(run, arrivals[-1].offset_s) for run in runs]
    p50, p95 = median(row.p50_s for row in rows), median(row.p95_s for row in rows)
    throughput = median(row.throughput for row in rows)
    measured_p95 = float(np.percentile(latency, 95))
    return Agreement(
        engine=engine,
        times=now,
        capacity=capacity,
        offered=len(arrivals) / length,
        requests=len(arrivals),
        measured_p50_s=float(np.median(latency)),
        measured_p95_s=measured_p95,
        measured_throughput=len(good) / end,
        measured_refused=len(arrivals) - len(good),
        simulated_p50_s=p50,
        simulated_p95_s=p95,
        simulated_throughput=throughput,
        simulated_refused=int(median(len(arrivals) - run.count(SUCCEEDED) for run in runs)),
        measured_batch=seen.mean(BATCH_REQUESTS),
        simulated_batch=median(row.mean_batch for row in rows),
        drift=drift,
        p95_error_before=median(row.p95_s for row in before_rows) / measured_p95 - 1,
        p95_error=p95 / measured_p95 - 1,
        throughput_error=throughput / (len(good) / end) - 1,
        generator_late_p99_s=float(np.percentile([one.late for one in record.outcomes if one.late is not None], 99)),
    )


def _simulated(arrivals: Sequence[Arrival], times: ServiceTimes, fleet: SimulatedFleet) -> list[CapacityRow]:
    runs = (simulate(arrivals, times, fleet, seed=seed) for seed in range(SIMULATED_SEEDS))
    return [row_of(run, arrivals[-1].offset_s) for run in runs]


def drifted(times: ServiceTimes, seen: Scrape, mix: dict[int, float]) -> tuple[ServiceTimes, float]:
    """`times` brought to the mean batch and the spread that the workers measured during the run, and by how much."""
    each = sum(share * times.each_s[garments - 1] for garments, share in mix.items())
    expected = times.fixed_s + each * seen.mean(BATCH_REQUESTS)
    factor = seen.busy_s / seen.counts[BATCH_REQUESTS, ""] / expected
    scaled = replace(
        times,
        fixed_s=times.fixed_s * factor,
        each_s=tuple(value * factor for value in times.each_s),
        spread=seen.ratios(STAGE_LATENCY, "denoise"),
    )
    return scaled, factor - 1


def text(found: Agreement) -> str:
    """One line of the table."""
    engine = found.engine
    return (
        f"{engine.model:12} cv {engine.cv:g} at {engine.share:.0%} of {found.capacity:.2f}/s: p95 measured "
        f"{found.measured_p95_s:.3f} s, simulated {found.simulated_p95_s:.3f} s "
        f"({found.p95_error:+.1%}; {found.p95_error_before:+.1%} without the drift of {found.drift:+.1%}); p50 "
        f"{found.measured_p50_s:.3f} / {found.simulated_p50_s:.3f} s; throughput {found.measured_throughput:.3f} / "
        f"{found.simulated_throughput:.3f} /s ({found.throughput_error:+.1%}); refused {found.measured_refused} / "
        f"{found.simulated_refused}; batch {found.measured_batch:.2f} / {found.simulated_batch:.2f}"
        f"{'' if found.holds else '  NOT WITHIN 10%'}"
    )


async def run(engines: Sequence[Engine], calibration_s: float, length_s: float) -> list[Agreement]:
    """Every engine on a service of its own model."""
    found = []
    for model in dict.fromkeys(engine.model for engine in engines):
        with tempfile.TemporaryDirectory() as data:
            async with local_service(Path(data), model, workers=WORKERS, settings=SETTINGS) as service:
                for engine in (engine for engine in engines if engine.model == model):
                    times, capacity = await calibrate(service, engine.lead, calibration_s)
                    found.append(await compare(service, engine, times, capacity, length_s))
                    sys.stdout.write(text(found[-1]) + "\n")
                    sys.stdout.flush()
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calibration", type=float, default=20.0, help="seconds of each calibration")
    parser.add_argument("--length", type=float, default=90.0, help="seconds of each trace")
    parser.add_argument("--only", default="", help="only models whose name begins so")
    parser.add_argument("--json", type=Path, default=RESULTS / "capacity-validation.json", help="where the numbers go")
    given = parser.parse_args(words)
    about = machine()
    engines = [engine for engine in ENGINES if engine.model.startswith(given.only)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(engines, given.calibration, given.length))
    rows = [asdict(one) | {"holds": one.holds} for one in found]
    for row in rows:
        row["times"]["spread"] = f"{len(row['times']['spread'])} points"
    write_json(
        given.json, {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, "within": WITHIN, "rows": rows}
    )
    return int(not all(one.holds for one in found))


if __name__ == "__main__":
    sys.exit(main())
