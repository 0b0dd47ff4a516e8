"""`changeroom up` under chaos: a part is killed every ten seconds, and customers hardly notice.

At least 80% of first tries are accepted, everything accepted ends with its picture, and `up` lives through all of it.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import redis
from PIL import Image
from running_up import Up, store_pid

FAULT_EVERY_S = 10.0
FAULTS = ("store", "gateway", "worker", "store", "gateway", "store")
ORDER_EVERY_S = 0.5
ACCEPTED_SHARE = 0.8
PATIENCE_S = 60.0
"""Of one try: a customer waits rather than giving up, and a busy machine has time."""


def photo(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (96, 128), colour).save(out, "JPEG")
    return out.getvalue()


FILES = [("person", ("p.jpg", photo("bisque"), "image/jpeg")), ("garment", ("g.jpg", photo("navy"), "image/jpeg"))]


class Order:
    """One customer's try-on: posted once, then again under the same key until it is accepted, then followed."""

    def __init__(self, address: str, number: int) -> None:
        self._address = address
        self._key = f"chaos-order-{number}"
        self.first_try = ""
        self.ids: set[str] = set()
        self.status = ""
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def over(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _go(self) -> None:
        while not self.ids:
            said = self._post()
            self.first_try = self.first_try or said
            time.sleep(0 if self.ids else 0.5)
        while self.status not in ("succeeded", "failed", "canceled", "expired"):
            with suppress(httpx.TransportError, json.JSONDecodeError):
                answer = self._ask("GET", f"/v1/try-ons/{next(iter(self.ids))}", headers={"Prefer": "wait=10"})
                self.status = answer.json().get("status", "") if answer.status_code == 200 else f"{answer.status_code}"
            time.sleep(0.2)

    def _post(self) -> str:
        try:
            answer = self._ask("POST", "/v1/try-ons", files=FILES, headers={"Idempotency-Key": self._key})
        except httpx.TransportError as error:
            return type(error).__name__
        if answer.status_code == 202:
            self.ids.add(answer.json()["id"])
        return f"{answer.status_code} {answer.json().get('code', '')}".strip()

    def _ask(self, method: str, path: str, **said: object) -> httpx.Response:
        with httpx.Client(base_url=self._address, timeout=PATIENCE_S, trust_env=False, verify=False) as client:
            return client.request(method, path, **said)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    words = ("rate_per_minute=0", "concurrency_per_key=0", "lease_s=4", "sweep_s=0.5", "max_backlog_s=0")
    service = Up(tmp_path / "data", "--model", "null:4:0.05", *(part for word in words for part in ("--set", word)))
    yield service
    service.close()


def kill(service: Up, data: Path, part: str) -> None:
    """SIGKILL, as soon as the part is there at all."""
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        with suppress(redis.RedisError, KeyError, ProcessLookupError):
            os.kill(store_pid(data) if part == "store" else service.children()[part], signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError(f"{part} never came back")


@pytest.mark.timeout(600)
def test_customers_hardly_notice_that_parts_are_killed(running: Up, tmp_path: Path) -> None:
    running.wait_for("serving until Ctrl-C")
    told: list[str] = []
    reading = threading.Thread(target=lambda: told.extend(running.process.stdout or ()), daemon=True)
    reading.start()
    began, orders, faults = time.monotonic(), [], iter(FAULTS)
    for number in itertools.count():
        orders.append(Order(running.address, number))
        if (number + 1) * ORDER_EVERY_S % FAULT_EVERY_S == FAULT_EVERY_S / 2:
            if (part := next(faults, None)) is None:
                break
            kill(running, tmp_path / "data", part)
        time.sleep(max(0.0, began + (number + 1) * ORDER_EVERY_S - time.monotonic()))
    assert all(order.over(2 * PATIENCE_S) for order in orders), "every order ends"
    tries = Counter(order.first_try for order in orders)
    print(f"{len(orders)} orders, {len(FAULTS)} faults, first tries: {dict(tries)}")
    assert tries["202"] >= ACCEPTED_SHARE * len(orders), tries
    assert {order.status for order in orders} == {"succeeded"}
    assert running.process.poll() is None
    assert running.stop() == 0
    reading.join(PATIENCE_S)
    assert sum("the store is back" in line for line in told) == FAULTS.count("store"), told
    for name in ("gateway", "worker 0"):
        killed = [line for line in told if line.startswith(f"{name} was killed (SIGKILL)")]
        assert len(killed) == FAULTS.count(name.split()[0]) and f"{name} was restarted\n" in told, told
