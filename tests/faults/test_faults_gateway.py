"""Gateways killed around the moment a job is written: the client's retry finds that one job."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fault_fleet import PATIENCE_S, until
from fault_ledger import Case

from service.jobs import store_keys

Begin = Callable[..., Case]


def jobs(case: Case) -> int:
    with case.fleet.redis() as client:
        return sum(1 for _ in client.scan_iter(store_keys.JOB + "*", count=1000))


def prime(case: Case) -> None:
    case.customers.order()
    case.customers.finish()


def test_killed_after_the_job_is_written_and_before_the_reply(begin: Begin) -> None:
    case = begin("gateway killed after the job is written, before the reply", model="null:25:0.2")
    fleet, customers = case.fleet, case.customers
    orders = [customers.order(prefer_wait=30) for _ in range(3)]
    until(lambda: len(fleet.jobs_of("processing")) == 3, "the jobs run while their clients wait")
    assert not any(order.ids for order in orders)
    killed = fleet.kill("gateway")
    fleet.start_gateway()
    customers.accepted()
    case.recovered("retries answered", time.monotonic() - killed, 30)
    assert jobs(case) == 3 and all(order.replayed for order in orders)
    case.verify(succeeded=3)
    assert {order.attempts for order in orders} == {1}


@pytest.mark.long
def test_killed_while_the_write_is_unanswered(begin: Begin) -> None:
    """The store has written the job, the gateway never heard of it."""
    case = begin("gateway killed between the job's write and its answer", model="null:4:0.05", proxied=True)
    fleet = case.fleet
    prime(case)
    trap = fleet.proxies["gateway"].catch("to store", b'"instruction"', forward=True)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    fleet.kill("gateway")
    fleet.proxies["gateway"].heal()
    fleet.start_gateway()
    case.verify(succeeded=2)
    assert jobs(case) == 2 and order.replayed


@pytest.mark.long
def test_killed_before_the_job_is_written(begin: Begin) -> None:
    """Room was reserved and never became a job: the same key is taken again once the reservation has run out."""
    case = begin(
        "gateway killed after the reservation, before the job is written",
        model="null:4:0.05",
        proxied=True,
        settings={"reservation_ttl_s": 8.0},
    )
    fleet = case.fleet
    prime(case)
    trap = fleet.proxies["gateway"].catch("to store", b'"instruction"', forward=False)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    killed = fleet.kill("gateway")
    fleet.proxies["gateway"].heal()
    fleet.start_gateway()
    case.customers.accepted(order)
    case.recovered("the retry is accepted (reservation_ttl_s 8)", time.monotonic() - killed, 8 + 12)
    case.verify(succeeded=2)
    assert jobs(case) == 2 and not order.replayed


@pytest.mark.long
@pytest.mark.parametrize("written", [False, True])
def test_the_store_goes_at_the_write(begin: Begin, written: bool) -> None:
    """Room is reserved, then the store is away for 4 s: the refused client's retry is taken soon after its return."""
    case = begin(
        f"store away for 4 s from the job's write on, which {'arrived' if written else 'did not arrive'}",
        model="null:4:0.05",
        proxied=True,
    )
    proxy = case.fleet.proxies["gateway"]
    prime(case)
    trap = proxy.catch("to store", b'"instruction"', forward=written)
    order = case.customers.order()
    assert trap.sprung.wait(PATIENCE_S)
    until(order.refusals, "the client is refused")
    time.sleep(4)
    proxy.heal()
    returned = time.monotonic()
    case.customers.accepted(order)
    case.recovered("the retry is accepted after the store's return", time.monotonic() - returned, 10)
    case.verify(succeeded=2)
    assert jobs(case) == 2 and order.replayed == written


@pytest.mark.long
def test_killed_and_restarted_under_traffic(begin: Begin) -> None:
    case = begin("gateway killed three times under traffic", model="null:4:0.05")
    fleet, customers = case.fleet, case.customers
    fleet.supervised.add("gateway")
    for round_ in range(3):
        for _ in range(6):
            customers.order(prefer_wait=20 if round_ % 2 else 0)
            time.sleep(0.1)
        fleet.kill("gateway")
        time.sleep(2.5)
    until(fleet.alive, "the gateway lives")
    case.verify(succeeded=18)
    assert jobs(case) == 18
