"""A store or a picture folder that loses, forgets, damages or has no room."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fault_fleet import until
from fault_ledger import Case
from test_faults_store_away import RECOVERY_S, back

Begin = Callable[..., Case]


def append_only_file(case: Case) -> Path:
    (path,) = (case.fleet.folder / "valkey" / "appendonlydir").glob("*.incr.aof")
    return path


@pytest.mark.long
def test_the_tail_of_the_append_only_file_is_cut(begin: Begin) -> None:
    """As a power cut leaves it: the last job is lost with the bytes, its client's retry makes it anew."""
    case = begin("store killed, AOF cut off in the last job's first write", model="null:4:0.05", workers=0)
    fleet, customers = case.fleet, case.customers
    first = [customers.order() for _ in range(3)]
    customers.accepted()
    last = customers.order()
    customers.accepted()
    fleet.kill("gateway")
    fleet.kill_store()
    log = append_only_file(case)
    os.truncate(log, log.read_bytes().index(last.id.encode()))
    fleet.start_store()
    assert len(fleet.jobs_of("queued")) == 3 and not fleet.job(last.id)
    case.forgotten.add(last.id)
    case.note("a cut tail stands for a power cut; the job whose write lay in it must be sent again")
    fleet.start_gateway()
    customers.accepted(customers.order(again=last))
    fleet.start_worker(0)
    case.verify(succeeded=4)
    assert last.gone == 404 and all(order.status == "succeeded" for order in first)


@pytest.mark.long
def test_flushall(begin: Begin) -> None:
    """An operator empties the store: its jobs are gone, said so with 404, and the service goes on by itself."""
    case = begin("FLUSHALL with jobs running and waiting", model="null:80:0.1")
    fleet, customers = case.fleet, case.customers
    for _ in range(6):
        customers.order(webhook=False)
    customers.accepted()
    until(lambda: fleet.jobs_of("processing"), "a batch runs")
    case.forgotten |= {order.id for order in customers.orders}
    with fleet.redis() as client:
        client.flushall()
    emptied = time.monotonic()
    back(case, emptied)
    new = [customers.orders[-1], *(customers.order() for _ in range(3))]
    case.verify(succeeded=4)
    assert {order.gone for order in customers.orders[:6]} == {404}
    assert {order.attempts for order in new} == {1}


@pytest.mark.long
def test_maxmemory(begin: Begin) -> None:
    case = begin("maxmemory reached for 5 s", model="null:15:0.2")
    fleet, customers = case.fleet, case.customers
    for _ in range(6):
        customers.order()
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    with fleet.redis() as client:
        client.config_set("maxmemory", "1")
        full = time.monotonic()
        refused(case)
        time.sleep(max(0.0, 5 - (time.monotonic() - full)))
        client.config_set("maxmemory", "0")
    back(case, time.monotonic())
    case.verify(succeeded=7)


def refused(case: Case) -> None:
    """New requests are refused in time while the store has no room; reading goes on."""
    began = time.monotonic()
    with case.fleet.client() as client:
        for number in range(3):
            order = case.customers.orders[0]
            key, order.key = order.key, f"refused-{number}"
            answer = case.customers.post(client, order)
            order.key = key
            assert (answer.status_code, answer.json()["retryable"]) == (503, True), answer.text
            assert client.get(f"/v1/try-ons/{order.id}").status_code == 200
    case.recovered("503 while there is no room (mean of 3)", (time.monotonic() - began) / 3, 1.0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of `size` at `folder`; skips the test where this process may not mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("a full disk needs a tmpfs, which only root with CAP_SYS_ADMIN may mount")
    try:
        yield folder
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(folder), 2)


def fill(folder: Path) -> Path:
    """Write until the disk is full; returns the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(4096))
    return ballast


@pytest.fixture
def store_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as folder:
        yield folder


@pytest.fixture
def blob_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "fleet" / "blobs", "4m") as folder:
        yield folder


@pytest.mark.long
def test_the_disk_of_the_store_is_full(store_disk: Path, begin: Begin) -> None:
    case = begin("disk of the store full for 6 s", model="null:15:0.2", store_folder=store_disk)
    fleet, customers = case.fleet, case.customers
    for _ in range(6):
        customers.order()
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    ballast = fill(store_disk)
    full = time.monotonic()
    extra = [customers.order() for _ in range(2)]
    until(lambda: any(order.refusals() for order in extra), "a request is refused")
    refused(case)
    time.sleep(max(0.0, 6 - (time.monotonic() - full)))
    ballast.unlink()
    back(case, time.monotonic())
    case.verify(succeeded=9)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [6.0, 75.0])
def test_the_disk_of_the_pictures_is_full(blob_disk: Path, begin: Begin, seconds: float) -> None:
    """Longer than a worker's patience too: its job goes back to the line instead of staying with it."""
    case = begin(f"disk of the pictures full for {seconds:.0f} s", model="null:15:0.2")
    fleet, customers = case.fleet, case.customers
    for _ in range(4):
        customers.order(deadline_s=140)
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    ballast = fill(blob_disk)
    full = time.monotonic()
    extra = customers.order(deadline_s=140)
    until(extra.refusals, "a request is refused")
    assert fleet.alive()
    time.sleep(max(0.0, seconds - (time.monotonic() - full)))
    ballast.unlink()
    freed = time.monotonic()
    customers.accepted(extra)
    case.recovered("202 after there is room", (extra.accepted_at or 0.0) - freed, RECOVERY_S)
    customers.finish()
    case.recovered("every job has ended", time.monotonic() - freed, 20)
    case.verify(succeeded=5)


@pytest.mark.long
def test_the_pictures_cannot_be_reached(begin: Begin) -> None:
    """The folder of the pictures errs for 8 s: what runs keeps its result, what was claimed waits for its pictures."""
    case = begin("pictures unreachable for 8 s", model="null:15:0.2")
    fleet, customers = case.fleet, case.customers
    orders = [customers.order(deadline_s=140) for _ in range(8)]
    customers.accepted()
    until(lambda: len(fleet.jobs_of("processing")) >= 4, "a batch runs")
    folder, away = fleet.folder / "blobs", fleet.folder / "away"
    folder.rename(away)
    folder.symlink_to(folder)
    extra = customers.order(deadline_s=140)
    until(extra.refusals, "a request is refused")
    time.sleep(8)
    folder.unlink()
    away.rename(folder)
    returned = time.monotonic()
    customers.accepted(extra)
    case.recovered("202 after the pictures' return", (extra.accepted_at or 0.0) - returned, RECOVERY_S)
    case.verify(succeeded=9)
    assert {order.attempts for order in orders} == {1}


@pytest.mark.long
def test_one_picture_cannot_be_read(begin: Begin) -> None:
    """Its bytes never come, as from a mount that hangs on one file: mates and later jobs go on, it ends by itself."""
    case = begin("one picture never comes, all others do", model="null:4:0.05", workers=0)
    fleet, customers = case.fleet, case.customers
    stuck = customers.order()
    customers.accepted()
    path = fleet.blobs("input")[0]
    path.unlink()
    os.mkfifo(path)
    mates = [customers.order() for _ in range(3)]
    customers.accepted()
    fleet.start_worker(0)
    ready = time.monotonic()
    mates += [customers.order(), customers.order()]
    until(lambda: all(order.ended_at or order.failure for order in mates), "the others are done")
    case.recovered("the others done after the worker's start", max(o.ended_at or 0.0 for o in mates) - ready, 15)
    case.verify(succeeded=5, failed=1)
    case.recovered("the one given up after the worker's start", (stuck.ended_at or 0.0) - ready, 60)
    assert [order.attempts for order in customers.orders] == [3, 1, 1, 1, 1, 1]


def test_pictures_are_missing_or_damaged(begin: Begin) -> None:
    """Each job whose picture is not what was stored fails by itself, at once, with a code that says so."""
    case = begin("input pictures missing, cut, damaged, emptied; results too", model="null:3:0.05", workers=0)
    fleet, customers = case.fleet, case.customers
    files: list[Path] = []
    for _ in range(5):
        known = set(fleet.blobs("input"))
        customers.accepted(customers.order())
        files.append(next(path for path in fleet.blobs("input") if path not in known))
    missing, cut, damaged, emptied, _ = files
    missing.unlink()
    os.truncate(cut, cut.stat().st_size // 2)
    data = bytearray(damaged.read_bytes())
    for at in random.Random(1).sample(range(len(data) // 2, len(data)), 8):
        data[at] ^= 0xFF
    damaged.write_bytes(data)
    os.truncate(emptied, 0)
    fleet.start_worker(0)
    case.verify(succeeded=1, failed=4)
    assert [order.attempts for order in customers.orders] == [1] * 5
    with fleet.client() as client:
        codes = [client.get(f"/v1/try-ons/{order.id}").json()["error"] for order in customers.orders[:4]]
        assert [error["code"] for error in codes] == ["input-erased", "input-damaged", "input-damaged", "input-damaged"]
        (result,) = fleet.blobs("result")
        good = customers.orders[4]
        whole = result.read_bytes()
        result.write_bytes(whole[:-9])
        assert client.get(f"/v1/try-ons/{good.id}/image").status_code == 410
        result.unlink()
        assert client.get(f"/v1/try-ons/{good.id}/image").status_code == 410
        assert client.get(f"/v1/try-ons/{good.id}").json()["status"] == "succeeded"
