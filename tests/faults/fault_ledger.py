"""The check after every fault: the clients' ledger against the service's states and metrics, as one row of JSON.

`Case.verify` raises AssertionError with everything that does not agree. The row is written in either case, to
the file the environment names or to the test's own folder.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from fault_clients import TERMINAL, Customers, Order, events
from fault_fleet import Fleet, until
from prometheus_client.parser import text_string_to_metric_families

from engine_build.bench.machine import host
from service.jobs import store_keys
from service.metrics import DEAD_LETTER, LEASE_LOST, REQUESTS_RUNNING, REQUESTS_TOTAL, REQUESTS_WAITING

LEDGER_VARIABLE = "CHANGEROOM_FAULTS_LEDGER"
DEADLINE_SLACK_S = 5.0
STALL_S = 30.0
QUIET_S = 30.0


class Case:
    """One fault, its orders and what was measured. `recovered` notes a time against its promise.

    A promise is kept to the second where it is measured, in `make test-faults`, which names the ledger. Elsewhere the
    machine may be busy with other things: STALL_S more, which no hang stays below.
    """

    def __init__(self, name: str, fleet: Fleet, path: Path) -> None:
        self.name = name
        self.fleet = fleet
        self.customers = Customers(fleet)
        self.measured: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.store_back_at: float | None = None
        self.orphans = 0
        self.forgotten: set[str] = set()
        self.verified = False
        self._path = path
        self._stall_s = 0.0 if LEDGER_VARIABLE in os.environ else STALL_S
        self._began = datetime.now(UTC)
        self._load = os.getloadavg()[0]
        self._found: dict[str, Any] = {}

    def recovered(self, what: str, seconds: float, promise_s: float) -> None:
        """Note a duration; one longer than its promise (and a stall) fails the case at once."""
        entry = {"what": what, "seconds": round(seconds, 2), "promise_s": promise_s}
        self.measured.append(entry)
        assert seconds <= promise_s + self._stall_s, entry

    def note(self, text: str) -> None:
        self.notes.append(text)

    def verify(self, *, seconds: float = 150.0, **expected: int) -> None:
        """Wait for every order to end, then compare. `expected` counts orders by terminal status."""
        self.customers.finish(seconds)
        with self.fleet.client() as client:
            problems = self._problems(client)
        ended = Counter(order.status or "none" for order in self._kept())
        self._found["ended"] = dict(ended)
        if expected and ended != Counter(expected):
            problems.append(f"ended {dict(ended)}, expected {expected}")
        assert not problems, "\n".join(problems)
        self.verified = True

    def close(self, *, passed: bool) -> None:
        """Write the row; `passed` says how the test ended."""
        orders = self.customers.orders
        row = {
            "case": self.name,
            "passed": passed and self.verified,
            "at": self._began.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self._began).total_seconds(), 1),
            "load_before": round(self._load, 1),
            "settings": {name: self.fleet.settings[name] for name in ("lease_s", "sweep_s")},
            "model": self.fleet.model,
            "accepted": sum(bool(order.ids) for order in orders),
            "refused_answers": dict(Counter(str(answer[2]) for order in orders for answer in order.refusals())),
            "ran_again": sum(order.attempts > 1 for order in orders),
            "measured": self.measured,
            "notes": self.notes,
            **self._found,
        }
        self.customers.close()
        document: dict[str, Any] = {"machine": host(), "cases": []}
        if self._path.exists():
            document = json.loads(self._path.read_text())
        document["cases"] = [known for known in document["cases"] if known["case"] != self.name] + [row]
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(document, indent=1) + "\n")
        draft.replace(self._path)

    def _kept(self) -> list[Order]:
        return [order for order in self.customers.orders if not order.ids & self.forgotten]

    def _problems(self, client: httpx.Client) -> list[str]:
        problems: list[str] = []
        for order in self._kept():
            problems += self._of_order(client, order)
        problems += self._of_totals(client)
        problems += self._of_webhooks()
        succeeded = sum(order.status == "succeeded" for order in self.customers.orders)
        pictures = len(self.fleet.blobs("result"))
        self._found["result_blobs"] = pictures
        if not succeeded <= pictures <= succeeded + self.orphans:
            problems.append(f"{pictures} results stored for {succeeded} pictures shown and {self.orphans} orphans")
        return problems

    def _of_order(self, client: httpx.Client, order: Order) -> list[str]:
        if len(order.ids) != 1:
            return [f"one key, {len(order.ids)} jobs: {order.answers}"]
        problems: list[str] = []
        record = client.get(f"/v1/try-ons/{order.id}").json()
        if order.status is None or record["status"] != order.status:
            problems.append(f"the client heard {order.status}, the record says {record.get('status', record)}")
        replay: list[str] = []
        with client.stream("GET", f"/v1/try-ons/{order.id}/events") as answer:
            replay = [kind for _, kind, _ in events(answer)]
        ends = [kind for kind in replay if kind in TERMINAL]
        told = [kind for _, _, kind, _ in order.events if kind in TERMINAL]
        if len(ends) != 1 or len(told) != 1:
            problems.append(f"terminal events: {ends} in the log, {told} at the client")
        if order.ended_at is not None and order.accepted_at is not None:
            due = order.accepted_at + order.deadline_s
            late = order.ended_at - max(due, self.store_back_at or 0.0)
            if late > DEADLINE_SLACK_S + self._stall_s:
                problems.append(f"ended {late:.1f} s after its deadline")
        if order.etag is not None and self.customers.picture(client, order) != order.etag:
            problems.append("another picture took the place of the one shown first")
        return problems

    def _of_totals(self, client: httpx.Client) -> list[str]:
        """The service's totals and gauges against what the clients heard."""
        heard = Counter(order.status for order in self._kept() if order.status)
        with suppress(TimeoutError):
            until(lambda: self.fleet_is_quiet(), "nothing is in flight", QUIET_S, every=0.2)
        samples = scrape(client)
        counted: Counter[str] = Counter()
        for (name, labels), value in samples.items():
            if name == REQUESTS_TOTAL and value:
                counted[dict(labels)["status"]] += int(value)
        gauges = {name: samples[name, ()] for name in (REQUESTS_WAITING, REQUESTS_RUNNING)}
        dead = sum(int(value) for (name, _), value in samples.items() if name == DEAD_LETTER)
        lost = int(samples.get((LEASE_LOST, ()), 0))
        self._found |= {"metrics": dict(counted), "lease_lost": lost, "dead_letters": dead}
        problems = []
        if counted != heard:
            problems.append(f"metrics {dict(counted)}, clients {dict(heard)}")
        if any(gauges.values()):
            problems.append(f"gauges that should be 0: {gauges}")
        if not self.fleet_is_quiet():
            problems.append("something is still in flight")
        return problems

    def fleet_is_quiet(self) -> bool:
        """Nothing reserved, queued, running, leased or with a deadline."""
        with self.fleet.redis() as client:
            return not any(
                client.zcard(name)
                for name in (
                    store_keys.IN_FLIGHT,
                    store_keys.LEASES,
                    store_keys.DEADLINES,
                    store_keys.RESERVATIONS,
                )
            )

    def _of_webhooks(self) -> list[str]:
        """One id for each ended job that asked for it, always with the same words."""
        asked = {f"msg_{order.id}": order for order in self._kept() if order.status and "webhook_url" in order.fields}
        received = self.customers.webhooks.received
        with suppress(TimeoutError):
            until(lambda: set(asked) <= {name for name, _ in received}, "webhooks", 60, every=0.1)
        told: dict[str, set[str]] = {}
        for name, body in received:
            told.setdefault(name, set()).add(json.dumps(body, sort_keys=True))
        self._found |= {"webhooks": len(told), "webhook_deliveries": len(received)}
        problems = [f"{name}: {len(bodies)} different messages" for name, bodies in told.items() if len(bodies) != 1]
        wrong = [
            name
            for name, order in asked.items()
            if not any(json.loads(body)["data"]["status"] == order.status for body in told.get(name, ()))
        ]
        if wrong or set(told) - set(asked) - {f"msg_{job_id}" for job_id in self.forgotten}:
            problems.append(f"webhooks {sorted(told)}, asked for {sorted(asked)}")
        return problems


def scrape(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics by name and sorted labels."""
    text = client.get("/metrics").raise_for_status().text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
