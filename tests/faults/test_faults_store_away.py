"""A store that is frozen, stopped, killed or cut off: refusals in time, no loss, recovery unaided."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from fault_clients import Order
from fault_fleet import until
from fault_ledger import Case

REFUSAL_S = 1.0
RECOVERY_S = 10.0
Begin = Callable[..., Case]


def probe(case: Case, times: int = 5) -> None:
    """While the store is away a new request is refused in time, and the process says that it lives."""
    order = Order("probe", {"categories": "tops"}, 60)
    took = []
    with case.fleet.client() as client:
        for number in range(times):
            order.key = f"probe-{number}"
            started = time.monotonic()
            answer = case.customers.post(client, order)
            took.append(time.monotonic() - started)
            assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable"), answer.text
            assert answer.json()["retryable"] and "retry-after" in answer.headers
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
    case.recovered(f"503 while the store is away (median of {times})", statistics.median(took), REFUSAL_S)


def back(case: Case, returned: float) -> None:
    """The store has returned: how long until ready, and until a new request is accepted."""
    case.store_back_at = returned
    order = case.customers.order()
    until(case.fleet.ready, "ready again")
    case.recovered("/readyz after the store's return", time.monotonic() - returned, RECOVERY_S)
    case.customers.accepted(order)
    case.recovered("202 after the store's return", (order.accepted_at or 0.0) - returned, RECOVERY_S)


@contextmanager
def frozen(case: Case) -> Iterator[None]:
    os.kill(case.fleet.store.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(case.fleet.store.pid, signal.SIGCONT)


@contextmanager
def stopped(case: Case) -> Iterator[None]:
    case.fleet.store.stop()
    try:
        yield
    finally:
        case.fleet.start_store()


@contextmanager
def killed(case: Case) -> Iterator[None]:
    case.fleet.kill_store()
    try:
        yield
    finally:
        case.fleet.start_store()


WAYS = {"frozen": frozen, "stopped": stopped, "killed": killed}


@pytest.mark.parametrize(
    ("way", "seconds"),
    [
        ("killed", 2.0),
        pytest.param("frozen", 2.0, marks=pytest.mark.long),
        pytest.param("stopped", 2.0, marks=pytest.mark.long),
        pytest.param("killed", 6.0, marks=pytest.mark.long),
        pytest.param("frozen", 6.0, marks=pytest.mark.long),
        pytest.param("stopped", 6.0, marks=pytest.mark.long),
        pytest.param("frozen", 60.0, marks=pytest.mark.long),
        pytest.param("stopped", 60.0, marks=pytest.mark.long),
    ],
)
def test_the_store_is_away(begin: Begin, way: str, seconds: float) -> None:
    case = begin(f"store {way} for {seconds:.0f} s", model="null:15:0.2")
    fleet, customers = case.fleet, case.customers
    for _ in range(6):
        customers.order(deadline_s=150)
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    with WAYS[way](case):
        gone = time.monotonic()
        for _ in range(2):
            customers.order(deadline_s=150)
        probe(case)
        time.sleep(max(0.0, seconds - (time.monotonic() - gone)))
    back(case, time.monotonic())
    case.verify(succeeded=9)
    if seconds == 2 and way != "frozen":
        assert {order.attempts for order in customers.orders} == {1}
    elif way == "frozen":
        case.note("a claim that the frozen store took in and answered to nobody costs its jobs one lease")
        assert max(order.attempts for order in customers.orders) <= 2


@pytest.mark.long
def test_a_deadline_passes_while_the_store_is_away(begin: Begin) -> None:
    case = begin("deadline passes while the store is stopped for 12 s", model="null:100:0.2")
    fleet, customers = case.fleet, case.customers
    orders = [customers.order(deadline_s=8) for _ in range(6)]
    customers.accepted()
    until(lambda: fleet.jobs_of("processing"), "a batch runs")
    with stopped(case):
        time.sleep(12)
    returned = case.store_back_at = time.monotonic()
    customers.finish()
    case.recovered("expired after the store's return", max(o.ended_at or 0.0 for o in orders) - returned, 5)
    case.verify(expired=6)


@pytest.mark.long
@pytest.mark.parametrize(
    ("delay_s", "seconds"), [(0.15, 0.0), (2.0, 6.0)], ids=["slow", "slower than the bound of a call"]
)
def test_the_network_to_the_store_is_slow(begin: Begin, delay_s: float, seconds: float) -> None:
    """Below the bound of a call everything goes on; above it calls fail in time, and answers are never mixed up."""
    case = begin(f"network delay {delay_s:g} s each way", model="null:15:0.2", proxied=True)
    fleet, customers = case.fleet, case.customers
    for _ in range(4):
        customers.order()
    customers.accepted()
    for proxy in fleet.proxies.values():
        proxy.delay_s = delay_s
    if seconds:
        probe(case, 3)
        time.sleep(seconds)
        for proxy in fleet.proxies.values():
            proxy.heal()
        back(case, time.monotonic())
    else:
        threads = [customers.order() for _ in range(4)]
        customers.accepted(*threads)
    case.verify()
    assert all(order.status == "succeeded" for order in customers.orders)


@pytest.mark.long
def test_the_network_to_the_store_drops_connections(begin: Begin) -> None:
    case = begin("network: connections reset and refused for 6 s", model="null:15:0.2", proxied=True)
    fleet, customers = case.fleet, case.customers
    for _ in range(6):
        customers.order()
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    for proxy in fleet.proxies.values():
        proxy.drop()
    gone = time.monotonic()
    probe(case)
    time.sleep(max(0.0, 6 - (time.monotonic() - gone)))
    for proxy in fleet.proxies.values():
        proxy.heal()
    back(case, time.monotonic())
    case.verify(succeeded=7)


@pytest.mark.long
def test_connections_reset_again_and_again(begin: Begin) -> None:
    case = begin("network: every connection reset 20 times in 10 s", model="null:5:0.1", proxied=True)
    fleet, customers = case.fleet, case.customers
    for number in range(20):
        customers.order(prefer_wait=5 if number % 2 else 0)
        for proxy in fleet.proxies.values():
            proxy.heal()
        time.sleep(0.5)
    case.verify(succeeded=20)


@pytest.mark.long
def test_connections_go_half_open(begin: Begin) -> None:
    """Every connection goes silent for ever without an end, as behind a NAT that forgot; new ones work."""
    case = begin("network: every connection half-open", model="null:5:0.1", proxied=True)
    fleet, customers = case.fleet, case.customers
    customers.order()
    customers.finish()
    for proxy in fleet.proxies.values():
        proxy.half_open()
    returned = time.monotonic()
    back(case, returned)
    customers.finish()
    case.recovered("the next job has ended", time.monotonic() - returned, 20)
    until(lambda: "notices interrupted" in fleet.log("gateway"), "the gateway listens anew", 30)
    until(lambda: not stale(case), "no connection is stale", 30)
    case.recovered("a waiting client hears at once again", best_wait(case), 3)
    case.verify()


def stale(case: Case) -> bool:
    """Whether a new job still ends late for its worker or its listener."""
    started = time.monotonic()
    order = case.customers.order()
    case.customers.finish()
    return (order.ended_at or started) - started > 3


def best_wait(case: Case) -> float:
    order = case.customers.order(prefer_wait=10)
    case.customers.finish()
    return (order.accepted_at or 0.0) - order.answers[0][0]


@pytest.mark.long
def test_the_network_is_silent_while_clients_listen(begin: Begin) -> None:
    case = begin("network: silent for 8 s under 12 followers", model="null:15:0.2", proxied=True)
    fleet, customers = case.fleet, case.customers
    for _ in range(12):
        customers.order()
    customers.accepted()
    for proxy in fleet.proxies.values():
        proxy.silent = True
    gone = time.monotonic()
    asked: list[int] = []

    def ask() -> None:
        with fleet.client() as client:
            try:
                asked.append(client.get(f"/v1/try-ons/{customers.orders[0].id}").status_code)
            except httpx.TransportError:
                asked.append(0)

    askers = [threading.Thread(target=ask) for _ in range(40)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    case.recovered("40 readers refused together", time.monotonic() - gone, 4)
    assert set(asked) == {503}
    time.sleep(max(0.0, 8 - (time.monotonic() - gone)))
    for proxy in fleet.proxies.values():
        proxy.heal()
    back(case, time.monotonic())
    case.verify(succeeded=13)
