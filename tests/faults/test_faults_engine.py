"""Engines that raise, run out of memory, hang, freeze or kill their process: batch-mates survive."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fault_fleet import QUICK, until
from fault_ledger import Case

BAD = 13
Begin = Callable[..., Case]


def batch(case: Case, deadline_s: float = 90.0) -> None:
    """Four orders, the second of them bad, claimed together."""
    for seed in (1, BAD, 3, 4):
        order = case.customers.order(seed=seed, deadline_s=deadline_s)
        case.customers.accepted(order)


def code(case: Case) -> str:
    """The error code of the one order that failed."""
    (order,) = (order for order in case.customers.orders if order.status == "failed")
    with case.fleet.client() as client:
        return str(client.get(f"/v1/try-ons/{order.id}").json()["error"]["code"])


def test_a_poison_job_kills_three_workers_and_its_mates_survive(begin: Begin) -> None:
    """The poison ends its process with SIGKILL in the middle of a batch, each time it is tried."""
    case = begin(
        "poison job: SIGKILL in each of 3 deliveries", model=f"null:3:0.05:kill@{BAD}", workers=0, settings=QUICK
    )
    batch(case)
    case.fleet.supervised.add("worker-0")
    case.fleet.start_worker(0, wait=False)
    started = time.monotonic()
    case.verify(succeeded=3, failed=1)
    case.recovered("poison in the dead letter, mates done", time.monotonic() - started, 3 * 20)
    assert code(case) == "worker-lost"
    assert case.customers.orders[1].attempts == 3
    assert max(order.attempts for order in case.customers.orders if order.status == "succeeded") <= 2


@pytest.mark.parametrize(
    ("fault", "ended", "attempts"),
    [
        ("error", {"succeeded": 3, "failed": 1}, 3),
        ("oom", {"succeeded": 4}, 2),
    ],
)
@pytest.mark.long
def test_the_engine_fails_on_one_request(begin: Begin, fault: str, ended: dict[str, int], attempts: int) -> None:
    """An exception that hits the batch, and a lack of memory that ends when the request runs alone."""
    case = begin(f"engine {fault} in a batch of 4", model=f"null:3:0.05:{fault}@{BAD}", workers=0)
    batch(case)
    case.fleet.start_worker(0)
    case.verify(**ended)
    assert [order.attempts for order in case.customers.orders] == [1, attempts, 1, 1]
    assert case.fleet.parts["worker-0"].exited() is None
    if fault == "error":
        assert code(case) == "engine-failed"


@pytest.mark.long
@pytest.mark.parametrize(("fault", "stall_s"), [("lost", 60.0), ("hang", 3.0), ("freeze", 3.0)])
def test_a_worker_whose_engine_is_broken_gives_way(begin: Begin, fault: str, stall_s: float) -> None:
    """A lost device ends the worker at once; one that hangs, with or without the interpreter, by the watchdog."""
    settings = {**QUICK, "engine_stall_s": stall_s}
    case = begin(f"engine {fault} in a batch of 4", model=f"null:3:0.05:{fault}@{BAD}", workers=0, settings=settings)
    fleet = case.fleet
    batch(case, deadline_s=140)
    fleet.start_worker(0)
    first = fleet.pid("worker-0")
    until(lambda: fleet.parts["worker-0"].exited() is not None, "the broken worker ends", 60 + stall_s)
    case.note(f"exit code {fleet.parts['worker-0'].exited()}")
    fleet.supervised.add("worker-0")
    until(lambda: fleet.parts["worker-0"].pid not in (None, first), "it is replaced")
    case.verify(succeeded=3, failed=1)
    assert case.customers.orders[1].attempts == 3
    assert max(order.attempts for order in case.customers.orders if order.status == "succeeded") <= 2
