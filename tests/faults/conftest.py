"""Fleets for fault tests, and the ledger their rows go to."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_fleet import Fleet
from fault_ledger import LEDGER_VARIABLE, Case

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(scope="session")
def ledger_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get(LEDGER_VARIABLE)
    return Path(given).absolute() if given else tmp_path_factory.mktemp("faults") / "faults.json"


@pytest.fixture
def begin(tmp_path: Path, ledger_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Case]]:
    """Starts a fleet of its own for a case; takes the case's name and what `Fleet` takes."""
    cases: list[Case] = []

    def go(name: str, *, workers: int = 1, **options: Any) -> Case:
        fleet = Fleet(tmp_path / "fleet", **options)
        case = Case(name, fleet, ledger_path)
        cases.append(case)
        fleet.start(workers)
        return case

    yield go
    for case in cases:
        case.close(passed=request.node.stash.get(PASSED, False))
        case.fleet.stop()
