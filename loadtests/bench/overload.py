"""`make bench-overload`: what a service on this machine does with more than it can do.

Two workers with the nano model, one thread each; first its capacity (a closed loop of busy clients), then an open
loop at 0.7, 1, 2 and 5 times that, a flash sale, a flood of one tenant beside a modest one, two floods, clients
who retry without waiting, and readers that take their picture a few bytes at a time. The load generator shares
the machine, so its own processor time counts against the service.

Goals are promises 8 and 12 of the design: at overload goodput stays at 90% of capacity, accepted try-ons keep
the latency objective, refusals come within 200 ms with Retry-After, and no tenant takes another's share.
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
from typing import Any

import uvloop

from loadtests.bench.local_service import LocalService, local_service
from loadtests.bench.overload_scenes import SCENES, OverloadScene, TenantTraffic
from loadtests.capacity.fairness import jain
from loadtests.replay.client import RUDE_PAUSE_S, Clients, Manners
from loadtests.replay.open_loop import OpenLoop
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.summary import spread
from loadtests.replay.wire import WireTransport
from loadtests.results_file import RESULTS, machine, write_json
from loadtests.traffic.arrivals import Arrival, Asked, Mix, generated, steady
from loadtests.traffic.photos import bundled
from service.metrics import BATCH_REQUESTS

TENANTS = ("shop", "greedy", "polite")
MAX_BACKLOG_S = 1.5
SETTINGS = ("rate_per_minute=0", "concurrency_per_key=0", "stored_bytes_per_key=0", f"max_backlog_s={MAX_BACKLOG_S:g}")
OBJECTIVE_P95_S = 3.0
REJECT_WITHIN_S = 0.2
LEAST_GOODPUT = 0.9
LEAST_JAIN = 0.95
BUSY_CLIENTS = 16
WARM_S = 5.0
SETTLE_S = 1.0
ASKED = Asked(garments=Mix((1, 2, 3), (0.5, 0.3, 0.2)))


@dataclass(frozen=True)
class Share:
    """What one tenant got: rates a second, seconds of accepted try-ons from the attempt that was accepted."""

    offered: float
    goodput: float
    succeeded: int
    ends: dict[str, int]
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class Finding:
    """One scene. `goodput` counts try-ons finished a second while traffic was offered, after the first WARM_S."""

    scene: str
    offered: float
    goodput: float
    of_capacity: float
    p50_s: float | None
    p95_s: float | None
    reject_p50_s: float | None
    reject_p99_s: float | None
    rejections: int
    engine_busy: float
    generator_cpu: float
    mean_batch: float
    late_p99_s: float | None
    ends: dict[str, int]
    tenants: dict[str, Share]
    jain: float | None = None
    missed: tuple[str, ...] = ()


async def capacity_of(service: LocalService, seconds: float) -> float:
    """Try-ons finished a second with BUSY_CLIENTS clients that never pause, after WARM_S."""
    begin = time.perf_counter()
    finished: list[float] = []
    pool = iter(generated(steady(1000.0), seconds, 1, asked=ASKED))

    async with Clients(
        service.url, bundled(), Manners(), key=service.keys["shop"], transport=WireTransport()
    ) as clients:

        async def busy() -> None:
            while (now := time.perf_counter()) < begin + WARM_S + seconds:
                arrival = next(pool)
                outcome = ClientOutcome(0, 0.0, arrival.garments, arrival.priority, None)
                outcome.index = id(outcome)
                await clients.try_on(arrival, outcome, now)
                if outcome.end == "succeeded":
                    finished.append(time.perf_counter() - begin)
                else:
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(busy() for _ in range(BUSY_CLIENTS)))
    inside = [at for at in finished if WARM_S <= at < WARM_S + seconds]
    return len(inside) / seconds


async def play(service: LocalService, scene: OverloadScene, capacity: float, seconds: float, seed: int) -> Finding:
    """Offer a scene and wait until every client has come to its end."""
    length = scene.length * seconds + WARM_S
    before, started = await service.scrape(), time.perf_counter()
    spent = time.process_time()
    photos = bundled()

    async def offer(index: int, traffic: TenantTraffic) -> list[ClientOutcome]:
        arrivals: list[Arrival] = generated(traffic.curve(capacity), length, seed + index, asked=ASKED)
        key = service.keys[traffic.tenant]
        wire = WireTransport()
        async with Clients(service.url, photos, traffic.manners, key=key, seed=seed, transport=wire) as clients:
            return (await OpenLoop(arrivals, clients).run()).outcomes

    offered = await asyncio.gather(*(offer(index, traffic) for index, traffic in enumerate(scene.traffic)))
    seen = (await service.scrape()).since(before)
    taken = time.perf_counter() - started
    by_tenant = {traffic.tenant: ended for traffic, ended in zip(scene.traffic, offered, strict=True)}
    everything = [outcome for ended in offered for outcome in ended]
    whole = _share(everything, length)
    rejections = spread(took for one in everything for *_, took in one.rejections)
    shares = {tenant: _share(ended, length) for tenant, ended in by_tenant.items()}
    found = Finding(
        scene=scene.name,
        offered=whole.offered,
        goodput=whole.goodput,
        of_capacity=whole.goodput / capacity,
        p50_s=whole.p50_s,
        p95_s=whole.p95_s,
        reject_p50_s=rejections.p50,
        reject_p99_s=rejections.p99,
        rejections=rejections.count,
        generator_cpu=(time.process_time() - spent) / taken,
        engine_busy=seen.busy_s / len(service.workers) / taken,
        mean_batch=seen.mean(BATCH_REQUESTS),
        late_p99_s=spread(one.late for one in everything if one.late is not None).p99,
        ends=whole.ends,
        tenants=shares,
        jain=_jain(tuple(shares.values())) if len(shares) > 1 else None,
    )
    return replace(found, missed=missed(found, scene.goals))


def _share(outcomes: Sequence[ClientOutcome], length: float) -> Share:
    good = [one for one in outcomes if one.end == "succeeded"]
    inside = [one for one in good if WARM_S <= one.ended_at < length]
    latency = spread(map(served_in, good))
    ends: dict[str, int] = {}
    for one in outcomes:
        ends[one.end] = ends.get(one.end, 0) + 1
    return Share(
        offered=len(outcomes) / length,
        goodput=len(inside) / (length - WARM_S),
        succeeded=len(good),
        ends=ends,
        p50_s=latency.p50,
        p95_s=latency.p95,
    )


def _jain(shares: Sequence[Share]) -> float:
    return jain([share.offered for share in shares], [share.goodput for share in shares])


def served_in(outcome: ClientOutcome) -> float:
    """Seconds of an accepted try-on from the sending of the attempt that was accepted, without the retries before."""
    if not outcome.rejections:
        return outcome.latency
    return outcome.latency - outcome.rejections[-1][1] - RUDE_PAUSE_S


def missed(found: Finding, goals: Sequence[str]) -> tuple[str, ...]:
    """The goals of a scene that were not reached, as sentences."""
    said = {
        "goodput": found.of_capacity >= LEAST_GOODPUT,
        "latency": found.p95_s is not None and found.p95_s <= OBJECTIVE_P95_S,
        "reject": found.reject_p99_s is None or found.reject_p99_s <= REJECT_WITHIN_S,
        "fairness": found.jain is not None and found.jain >= LEAST_JAIN,
    }
    return tuple(goal for goal in goals if not said[goal])


def text(found: Finding) -> str:
    """One line of the table."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def millis(value: float | None) -> str:
        return "-" if value is None else f"{value * 1000:.0f}"

    fair = "" if found.jain is None else f"  Jain {found.jain:.3f}"
    verdict = f"  MISSED {', '.join(found.missed)}" if found.missed else ""
    return (
        f"{found.scene:20} offered {found.offered:6.1f}/s  goodput {found.goodput:5.2f}/s ({found.of_capacity:4.0%})  "
        f"p50/p95 {seconds(found.p50_s)}/{seconds(found.p95_s)} s  refused {found.rejections} in "
        f"{millis(found.reject_p50_s)}/{millis(found.reject_p99_s)} ms  engines {found.engine_busy:.0%}, generator "
        f"{found.generator_cpu:.0%} of a core{fair}{verdict}"
    )


async def run(seconds: float, seed: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """All scenes (or those whose name begins with one of `only`) on one service."""
    about = machine()
    findings = []
    with tempfile.TemporaryDirectory() as data:
        async with local_service(Path(data), "nano", workers=2, tenants=TENANTS, settings=SETTINGS) as service:
            await capacity_of(service, 2.0)
            capacity = await capacity_of(service, seconds)
            sys.stdout.write(f"capacity {capacity:.2f} try-ons/s\n")
            for index, scene in enumerate(SCENES):
                if only and not scene.name.startswith(tuple(only)):
                    continue
                await asyncio.sleep(SETTLE_S)
                findings.append(await play(service, scene, capacity, seconds, seed + 10 * index))
                sys.stdout.write(text(findings[-1]) + "\n")
                sys.stdout.flush()
            again = await capacity_of(service, seconds)
            sys.stdout.write(f"capacity afterwards {again:.2f} try-ons/s\n")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "engine": "nano, 2 workers, 1 thread each",
        "settings": list(SETTINGS),
        "goals": {
            "goodput": f"at least {LEAST_GOODPUT:.0%} of capacity",
            "latency": f"p95 of accepted within {OBJECTIVE_P95_S:g} s",
            "reject": f"p99 of refusals within {REJECT_WITHIN_S * 1000:g} ms",
            "fairness": f"Jain's index of goodput over the max-min fair part at least {LEAST_JAIN}",
        },
        "seconds": seconds,
        "seed": seed,
        "capacity": round(capacity, 3),
        "capacity_after": round(again, 3),
        "scenes": [asdict(finding) for finding in findings],
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="length of each scene after its warm-up")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", action="append", default=[], help="scenes whose name begins so")
    parser.add_argument("--json", type=Path, default=RESULTS / "overload.json", help="where the numbers go")
    given = parser.parse_args(words)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(given.seconds, given.seed, given.only))
    write_json(given.json, found)
    return int(any(scene["missed"] for scene in found["scenes"]))


if __name__ == "__main__":
    sys.exit(main())
