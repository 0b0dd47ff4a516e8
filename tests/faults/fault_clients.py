"""Clients as an app would be one: they submit under an Idempotency-Key, retry what may be retried, follow the
events across lost connections, and write down everything they were told.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from fault_fleet import Fleet, until
from PIL import Image

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
GIVE_UP_S = 150.0


def photo(size: tuple[int, int] = (96, 128), kind: str = "JPEG") -> bytes:
    """An encoded picture of noise, each time another one."""
    out = io.BytesIO()
    noise = Image.frombytes("RGB", (24, 32), secrets.token_bytes(24 * 32 * 3))
    noise.resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


@dataclass
class Order:
    """One try-on as its client knows it. Times are monotonic seconds, `events` are (arrival, id, type, data)."""

    key: str
    fields: dict[str, str]
    deadline_s: float
    prefer_wait: int = 0
    person: bytes = field(default_factory=photo, repr=False)
    garment: bytes = field(default_factory=photo, repr=False)
    answers: list[tuple[float, float, int | str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    accepted_at: float | None = None
    replayed: bool = False
    events: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    gone: int | None = None
    ended_at: float | None = None
    etag: str | None = None
    failure: BaseException | None = None
    thread: threading.Thread | None = None

    @property
    def id(self) -> str:
        (job_id,) = self.ids
        return job_id

    @property
    def status(self) -> str | None:
        """The terminal status the events told, or None."""
        return next((kind for _, _, kind, _ in self.events if kind in TERMINAL), None)

    @property
    def attempts(self) -> int:
        return max((int(data.get("attempt", 0)) for _, _, kind, data in self.events if kind == "processing"), default=0)

    def attempt_at(self, attempt: int) -> float | None:
        """When the start of this attempt was heard of."""
        for at, _, kind, data in self.events:
            if kind == "processing" and int(data.get("attempt", 0)) == attempt:
                return at
        return None

    def refusals(self) -> list[tuple[float, float, int | str]]:
        """Answers to its posts other than 200 and 202: (at, seconds it took, status or error)."""
        return [answer for answer in self.answers if answer[2] not in (200, 202)]


class Customers:
    """Places orders on a fleet, each on a thread of its own. `webhooks` receives what the service tells it."""

    def __init__(self, fleet: Fleet) -> None:
        self.orders: list[Order] = []
        self.webhooks = Receiver()
        self._fleet = fleet

    def order(
        self,
        *,
        seed: int | None = None,
        deadline_s: float = 90.0,
        webhook: bool = True,
        prefer_wait: int = 0,
        again: Order | None = None,
    ) -> Order:
        """Begin one try-on, or the same request `again` under the same key; returns at once."""
        fields = {"categories": "tops"} | ({} if seed is None else {"seed": str(seed)})
        if webhook:
            fields["webhook_url"] = self.webhooks.url
        order = Order(secrets.token_hex(12), fields, deadline_s, prefer_wait)
        if again is not None:
            order.key, order.fields, order.person, order.garment = again.key, again.fields, again.person, again.garment
        self.orders.append(order)
        order.thread = threading.Thread(target=self._live, args=(order,), name="customer", daemon=True)
        order.thread.start()
        return order

    def accepted(self, *orders: Order, seconds: float = 40.0) -> None:
        """Wait until these orders (default: all) were answered with an id."""
        for order in orders or self.orders:
            until(lambda order=order: order.ids or order.failure, "an order is accepted", seconds)
            if order.failure is not None:
                raise order.failure

    def finish(self, seconds: float = GIVE_UP_S) -> None:
        """Wait until every order has ended for its client; raises what went wrong in its thread."""
        patience = time.monotonic() + seconds
        for order in self.orders:
            if order.thread is None:
                raise RuntimeError("the order never began")
            order.thread.join(max(0.1, patience - time.monotonic()))
            if order.failure is not None:
                raise order.failure
            if order.thread.is_alive():
                raise TimeoutError(f"an order did not end: {order.answers[-3:]} {order.events[-3:]}")

    def close(self) -> None:
        self.webhooks.close()

    def post(self, client: httpx.Client, order: Order) -> httpx.Response:
        """Send the order's request once."""
        headers = {"Idempotency-Key": order.key, "Cancel-After": f"{order.deadline_s:g}"}
        if order.prefer_wait:
            headers["Prefer"] = f"wait={order.prefer_wait}"
        files = [("person", ("p.jpg", order.person)), ("garment", ("g.jpg", order.garment))]
        return client.post("/v1/try-ons", headers=headers, data=order.fields, files=files)

    def _live(self, order: Order) -> None:
        try:
            give_up = time.monotonic() + GIVE_UP_S
            with self._fleet.client(timeout=30) as client:
                while not order.ids and time.monotonic() < give_up:
                    self._submit(client, order)
                while order.ids and order.ended_at is None and order.gone is None and time.monotonic() < give_up:
                    with suppress(httpx.TransportError):
                        self._follow(client, order)
                if order.status == "succeeded":
                    order.etag = self.picture(client, order)
        except BaseException as error:
            order.failure = error

    def _submit(self, client: httpx.Client, order: Order) -> None:
        started = time.monotonic()
        try:
            answer = self.post(client, order)
        except httpx.TransportError as error:
            order.answers.append((started, time.monotonic() - started, type(error).__name__))
            time.sleep(0.25)
            return
        now = time.monotonic()
        order.answers.append((started, now - started, answer.status_code))
        if answer.status_code in (200, 202):
            order.accepted_at = now
            order.replayed = "idempotent-replayed" in answer.headers
            order.ids.add(answer.json()["id"])
        elif answer.json().get("retryable"):
            time.sleep(min(1.0, float(answer.headers.get("retry-after", 1))))
        else:
            raise RuntimeError(f"refused for good: {answer.status_code} {answer.text}")

    def _follow(self, client: httpx.Client, order: Order) -> None:
        headers = {"Last-Event-ID": order.events[-1][1]} if order.events else {}
        with client.stream("GET", f"/v1/try-ons/{order.id}/events", headers=headers) as answer:
            if answer.status_code in (404, 410):
                order.gone = answer.status_code
                return
            if answer.status_code == 200:
                for event in events(answer):
                    order.events.append((time.monotonic(), *event))
                    if event[1] in TERMINAL:
                        order.ended_at = time.monotonic()
                        return
        time.sleep(0.2)

    @staticmethod
    def picture(client: httpx.Client, order: Order) -> str:
        """ETag and digest of the picture's bytes: any other result, even of the same bytes, has another one."""
        answer = client.get(f"/v1/try-ons/{order.id}/image")
        answer.raise_for_status()
        return f"{answer.headers['etag']} {hashlib.sha256(answer.content).hexdigest()}"


def events(answer: httpx.Response) -> Any:
    """(id, type, data) of each event of an SSE answer."""
    said: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            said[name] = value
        elif "event" in said:
            yield said["id"], said["event"], json.loads(said["data"])
            said = {}


class Receiver:
    """A webhook receiver on loopback that answers 204 and keeps (id, body) of every delivery."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Mapping[str, Any]]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append((self.headers["webhook-id"], json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, name="webhooks", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
