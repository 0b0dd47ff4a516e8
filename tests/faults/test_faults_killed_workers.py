"""Workers killed in every state a job can be in: nothing is lost, nothing is shown twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from fault_fleet import PATIENCE_S, QUICK, until
from fault_ledger import Case

RESTART_S = 20.0
Begin = Callable[..., Case]


def restarted(case: Case, killed: float, ready: float | None = None) -> None:
    """Every job that ran at the kill starts again within the promise, counted from a fleet that can run it."""
    again = [at for order in case.customers.orders if (at := order.attempt_at(2)) is not None]
    assert again
    case.recovered("job restarted after its worker's death", max(again) - max(killed, ready or 0.0), RESTART_S)


def prime(case: Case) -> None:
    """One try-on before the fault, so that every script is known to the store. Its webhook would be read through the
    proxy a moment later, where a trap may wait.
    """
    case.customers.order(webhook=False)
    case.customers.finish()


def test_killed_in_denoise_with_a_batch(begin: Begin) -> None:
    case = begin("worker killed in denoise, batch of 3", model="null:300:0.2", workers=0, settings=QUICK)
    fleet, customers = case.fleet, case.customers
    orders = [customers.order() for _ in range(3)]
    customers.accepted()
    fleet.start_worker(0)
    for order in orders:
        fleet.reach(order.id, 2)
    fleet.start_worker(1, model="null:2:0.05")
    killed = fleet.kill("worker-0")
    case.verify(succeeded=3)
    assert min(order.attempts for order in orders) >= 2
    restarted(case, killed)


@pytest.mark.long
def test_killed_in_denoise_at_the_settings_of_production(begin: Begin) -> None:
    case = begin("worker killed in denoise, default lease, no other traffic", model="null:400:0.2")
    order = case.customers.order(deadline_s=110)
    case.customers.accepted()
    case.fleet.reach(order.id, 2)
    case.fleet.start_worker(1, model="null:2:0.05")
    killed = case.fleet.kill("worker-0")
    case.verify(succeeded=1)
    restarted(case, killed)


@pytest.mark.long
def test_killed_when_claimed(begin: Begin) -> None:
    """The store has leased the job, the worker has not heard of it yet."""
    case = begin("worker killed when claimed", model="null:4:0.05", proxied=True, settings=QUICK)
    fleet = case.fleet
    prime(case)
    trap = fleet.proxies["worker"].catch("to client", b'"instruction"', forward=False)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    case.customers.accepted(order)
    assert fleet.job(order.id)["status"] == "processing"
    killed = fleet.kill("worker-0")
    fleet.proxies["worker"].heal()
    fleet.start_worker(1)
    ready = time.monotonic()
    case.verify(succeeded=2)
    restarted(case, killed, ready)


@pytest.mark.long
def test_killed_in_decode(begin: Begin) -> None:
    """The worker is killed while it reads a picture, which is a pipe that never delivers."""
    case = begin("worker killed in decode", model="null:4:0.05", workers=0, settings=QUICK)
    fleet, customers = case.fleet, case.customers
    order = customers.order()
    customers.accepted()
    path = fleet.blobs("input")[0]
    kept = path.with_name("kept")
    path.rename(kept)
    os.mkfifo(path)
    fleet.start_worker(0)
    until(lambda: fleet.job(order.id)["status"] == "processing", "the job is claimed")
    time.sleep(1)
    assert (fleet.job(order.id)["status"], fleet.job(order.id)["step"]) == ("processing", "0")
    killed = fleet.kill("worker-0")
    kept.rename(path)
    fleet.start_worker(1)
    ready = time.monotonic()
    case.verify(succeeded=1)
    restarted(case, killed, ready)


@pytest.mark.long
def test_killed_between_the_result_and_its_write(begin: Begin) -> None:
    case = begin("worker killed between result blob and finish", model="null:4:0.05", proxied=True, settings=QUICK)
    fleet = case.fleet
    prime(case)
    trap = fleet.proxies["worker"].catch("to store", b'"nfe"', forward=False)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    assert (len(fleet.blobs("result")), fleet.job(order.id)["status"]) == (2, "processing")
    killed = fleet.kill("worker-0")
    fleet.proxies["worker"].heal()
    fleet.start_worker(1)
    ready = time.monotonic()
    case.orphans = 1
    case.note("the dead worker's picture stays, unseen, until the result TTL erases it")
    case.verify(succeeded=2)
    restarted(case, killed, ready)


@pytest.mark.long
def test_killed_before_the_acknowledgement(begin: Begin) -> None:
    """The end is written, its answer never arrives: the job is over, no other worker takes it."""
    case = begin("worker killed between finish and its answer", model="null:4:0.05", proxied=True)
    fleet = case.fleet
    prime(case)
    trap = fleet.proxies["worker"].catch("to store", b'"nfe"', forward=True)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    fleet.kill("worker-0")
    fleet.proxies["worker"].heal()
    fleet.start_worker(1)
    case.verify(succeeded=2)
    assert order.attempts == 1


@pytest.mark.long
def test_the_whole_fleet_is_killed(begin: Begin) -> None:
    case = begin("gateway, both workers and store killed at once", model="null:20:0.2", workers=2, settings=QUICK)
    fleet, customers = case.fleet, case.customers
    for _ in range(12):
        customers.order()
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 5, "both workers run", every=0.1)
    until(lambda: all(int(fleet.job(job_id).get("step", 0)) for job_id in fleet.jobs_of("processing")), "steps")
    fleet.kill("gateway", "worker-0", "worker-1", "store")
    fleet.kill_store()
    time.sleep(1)
    fleet.start_store()
    back = case.store_back_at = time.monotonic()
    fleet.start_gateway()
    fleet.start_worker(0, wait=False)
    fleet.start_worker(1)
    ready = time.monotonic()
    case.recovered("all processes up again", ready - back, 60)
    case.verify(succeeded=12)
    restarted(case, back, ready)


def test_a_zombie_cannot_overwrite(begin: Begin) -> None:
    """A worker stopped at its very last call: lease over, job done elsewhere, then the call arrives after all."""
    case = begin(
        "SIGSTOP past the lease at the last call, then SIGCONT", model="null:4:0.05", proxied=True, settings=QUICK
    )
    fleet, proxy = case.fleet, case.fleet.proxies["worker"]
    prime(case)
    fleet.start_worker(1, direct=True)
    fleet.signal("worker-1", signal.SIGSTOP)
    trap = proxy.catch("to store", b'"nfe"', forward=False)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    stopped = fleet.signal("worker-0", signal.SIGSTOP)
    fleet.signal("worker-1", signal.SIGCONT)
    case.customers.finish()
    first = order.etag
    trap.release()
    proxy.heal()
    fleet.signal("worker-0", signal.SIGCONT)
    until(lambda: "end discarded" in fleet.log("worker-0"), "the zombie's end is refused")
    until(lambda: len(fleet.blobs("result")) == 2, "the zombie erases its picture")
    case.verify(succeeded=2)
    assert order.etag == first and order.attempts >= 2
    restarted(case, stopped)


@pytest.mark.long
def test_a_zombie_in_denoise_stops(begin: Begin) -> None:
    case = begin("SIGSTOP in denoise past the lease, then SIGCONT", model="null:120:0.1", settings=QUICK)
    fleet, customers = case.fleet, case.customers
    order = customers.order()
    customers.accepted()
    fleet.reach(order.id, 2)
    stopped = fleet.signal("worker-0", signal.SIGSTOP)
    fleet.start_worker(1)
    ready = time.monotonic()
    until(lambda: order.attempts >= 2, "the job runs elsewhere")
    fleet.signal("worker-0", signal.SIGCONT)
    until(lambda: "job stops: lost" in fleet.log("worker-0"), "the zombie hears that it lost the job")
    customers.order()
    case.verify(succeeded=2)
    restarted(case, stopped, ready)


@pytest.mark.long
def test_sigterm_in_the_middle_of_a_batch(begin: Begin) -> None:
    case = begin("SIGTERM in the middle of a batch", model="null:25:0.2", workers=0)
    fleet, customers = case.fleet, case.customers
    orders = [customers.order() for _ in range(7)]
    customers.accepted()
    fleet.start_worker(0)
    running = until(lambda: fleet.jobs_of("processing"), "a batch runs")
    fleet.reach(running[0], 2)
    told = fleet.signal("worker-0", signal.SIGTERM)
    assert fleet.exit_code("worker-0") == 0
    case.recovered("exit after SIGTERM", time.monotonic() - told, fleet.settings["drain_grace_s"] + 5)
    assert (len(fleet.jobs_of("succeeded")), len(fleet.jobs_of("queued"))) == (4, 3)
    fleet.start_worker(1, model="null:2:0.05")
    case.verify(succeeded=7)
    assert {order.attempts for order in orders} == {1}


@pytest.mark.long
def test_sigterm_beyond_the_grace_hands_back(begin: Begin) -> None:
    case = begin("SIGTERM, batch longer than the grace", model="null:200:0.3", settings={"drain_grace_s": 6.0})
    fleet, customers = case.fleet, case.customers
    order = customers.order()
    customers.accepted()
    fleet.reach(order.id, 1)
    told = fleet.signal("worker-0", signal.SIGTERM)
    assert fleet.exit_code("worker-0") == 0
    case.recovered("exit after SIGTERM", time.monotonic() - told, 6 + 5)
    fleet.start_worker(1, model="null:2:0.05")
    case.verify(succeeded=1)
    assert order.attempts == 1
