"""One shopper's app: uploads, follows its try-on to the end, retries as it is told, and may lose patience.

Following: the POST is answered 202 as soon as the job is written, then one GET with `Prefer: wait` is held open
until the end (RFC 7240; at most 60 s, then asked again). That costs the same one request as the event stream and
none of its previews, and unlike waiting inside the POST it leaves the id known, so that giving up can cancel.

Time is measured from the moment a try-on was due, not from when a busy generator got round to sending it;
otherwise a stalled service delays the very requests that would have shown the stall ("coordinated omission":
Gil Tene, "How NOT to Measure Latency", 2013; open against closed systems: Schroeder, Wierman, Harchol-Balter,
"Open Versus Closed: A Cautionary Tale", NSDI 2006).
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from loadtests.replay.outcomes import ClientOutcome
from loadtests.traffic.arrivals import Arrival
from loadtests.traffic.photos import CONTENT_TYPE, Wardrobe
from service.jobs.schemas import TERMINAL

HOLD_S = 60.0
RETRYABLE = frozenset({429, 503})
SENDING = frozenset({"connection.connect_tcp.started", "http11.send_request_headers.started"})
RUDE_PAUSE_S = 0.1
LOST_PAUSE_S = 0.5
LOST_IN_A_ROW = 5
KEEP_ALIVE_S = 2.0  # below the 5 s after which uvicorn closes: a request must not meet a closing connection
SLOW_BUFFER = 4096


@dataclass(frozen=True)
class Manners:
    """How clients behave. Shares are 0 to 1.

    `patience_s`: gives up and cancels after so long (None: never), `impatient` share of clients who do.
    `retries`: how often a client tries again after 429, 503 or a lost connection, with the same Idempotency-Key;
    `rude` ones do not wait for Retry-After. `slow_readers` take their picture at `slow_bytes_s`.
    """

    patience_s: float | None = None
    impatient: float = 1.0
    retries: int = 0
    rude: bool = False
    timeout_s: float = 120.0
    download: bool = True
    slow_readers: float = 0.0
    slow_bytes_s: float = 2048.0


class Rejected(Exception):
    """429 or 503, after which a client may come again."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(code_of(answer))
        self.answer = answer

    @property
    def retry_after(self) -> float:
        """Seconds to wait (RFC 9110, section 10.2.3, in its seconds form; 1 where there is none)."""
        text = self.answer.headers.get("retry-after", "")
        return float(text) if text.isdigit() else 1.0


class Refused(Exception):
    """Any other answer that is no try-on."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(code_of(answer))
        self.answer = answer


def code_of(answer: httpx.Response) -> str:
    """The stable code of a problem document (RFC 9457), or the bare status."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return f"http-{answer.status_code}"


class Clients:
    """Every client of a run, on one bounded connection pool. Use as an async context manager."""

    def __init__(
        self,
        url: str,
        wardrobe: Wardrobe,
        manners: Manners,
        *,
        key: str | None = None,
        connections: int = 1000,
        seed: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` replaces httpx's own for all but slow readers."""
        self._wardrobe = wardrobe
        self._manners = manners
        self._seed = seed
        self._run = uuid.uuid4().hex
        common: dict[str, Any] = {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": httpx.Timeout(manners.timeout_s, pool=None),
            "trust_env": False,
        }
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_S
        )
        self._http = httpx.AsyncClient(**common, limits=limits, transport=transport)
        narrow = [(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)]
        self._slow = httpx.AsyncClient(
            **(common | {"transport": httpx.AsyncHTTPTransport(limits=limits, socket_options=narrow, trust_env=False)})
        )

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        await self._slow.aclose()

    async def try_on(self, arrival: Arrival, outcome: ClientOutcome, due: float) -> None:
        """One try-on, due at `due` (time.perf_counter seconds), written into `outcome` as it goes.

        Canceling the task leaves `outcome` as unfinished and takes the job back where its id is known.
        """
        rng = random.Random(f"{self._seed}/{outcome.index}")
        outcome.slow = rng.random() < self._manners.slow_readers
        patience = self._manners.patience_s if rng.random() < self._manners.impatient else None
        limit = min(self._manners.timeout_s, self._manners.timeout_s if patience is None else patience)
        try:
            async with asyncio.timeout(max(0.0, due + limit - time.perf_counter())):
                await self._until_the_end(arrival, outcome, due, rng)
        except TimeoutError:
            gave_up = patience is not None and patience <= self._manners.timeout_s
            outcome.end, outcome.code = ("gave up", "patience") if gave_up else ("unreachable", "no answer in time")
            outcome.latency = time.perf_counter() - due
            outcome.late = outcome.latency if outcome.late is None else outcome.late
            await self._take_back(outcome)
        except asyncio.CancelledError:
            outcome.latency = time.perf_counter() - due
            await self._take_back(outcome)
            raise
        if outcome.end == "succeeded" and self._manners.download:
            await self._download(outcome)

    async def _until_the_end(self, arrival: Arrival, outcome: ClientOutcome, due: float, rng: random.Random) -> None:
        """Post, retry, follow; sets the end and the latency."""
        body = self._wardrobe.body(arrival, rng)
        try:
            while True:
                outcome.attempts += 1
                last = outcome.attempts > self._manners.retries
                try:
                    try_on = await self._post(outcome, body, due)
                    break
                except Rejected as rejected:
                    if last:
                        raise
                    await asyncio.sleep(RUDE_PAUSE_S if self._manners.rude else rejected.retry_after)
                except httpx.TransportError:
                    if last:
                        raise
                    await asyncio.sleep(RUDE_PAUSE_S if self._manners.rude else LOST_PAUSE_S)
            lost = 0
            while try_on["status"] not in TERMINAL:
                try:
                    try_on, lost = await self._follow(outcome), 0
                except httpx.TransportError:
                    lost += 1
                    if lost == LOST_IN_A_ROW:
                        raise
                    await asyncio.sleep(LOST_PAUSE_S)
        except Rejected as rejected:
            outcome.end, outcome.code, outcome.status = "rejected", str(rejected), rejected.answer.status_code
        except Refused as refused:
            outcome.end, outcome.code, outcome.status = "refused", str(refused), refused.answer.status_code
        except httpx.TransportError as error:
            outcome.end, outcome.code = "unreachable", type(error).__name__
        else:
            self._finished(outcome, try_on)
        outcome.latency = time.perf_counter() - due

    async def _post(self, outcome: ClientOutcome, body: bytes, due: float) -> dict[str, Any]:
        """The try-on as accepted. Raises Rejected, Refused or httpx.TransportError."""
        sent = time.perf_counter()
        headers = {"Content-Type": CONTENT_TYPE, "Idempotency-Key": f"{self._run}-{outcome.index}"}
        trace = _first_send(outcome, due) if outcome.attempts == 1 else None
        extensions = {"trace": trace} if trace else {}
        answer = await self._http.post("/v1/try-ons", content=body, headers=headers, extensions=extensions)
        now = time.perf_counter()
        if answer.status_code in RETRYABLE:
            outcome.rejections.append((answer.status_code, now - due, now - sent))
            raise Rejected(answer)
        if answer.status_code not in (200, 202):
            raise Refused(answer)
        outcome.accepted, outcome.status = now - due, answer.status_code
        return self._known(outcome, answer)

    async def _follow(self, outcome: ClientOutcome) -> dict[str, Any]:
        """The try-on at its end, or as it is after HOLD_S; a store that is away for a moment is waited for."""
        answer = await self._http.get(f"/v1/try-ons/{outcome.job}", headers={"Prefer": f"wait={HOLD_S:.0f}"})
        if answer.status_code in RETRYABLE:
            await asyncio.sleep(Rejected(answer).retry_after)
            return {"status": "queued"}
        if answer.status_code != 200:
            raise Refused(answer)
        return self._known(outcome, answer)

    @staticmethod
    def _known(outcome: ClientOutcome, answer: httpx.Response) -> dict[str, Any]:
        try:
            try_on: dict[str, Any] = answer.json()
            outcome.job = str(try_on["id"])
            try_on["status"]
        except (ValueError, KeyError, TypeError):
            raise Refused(answer) from None
        return try_on

    @staticmethod
    def _finished(outcome: ClientOutcome, try_on: dict[str, Any]) -> None:
        ended = try_on["status"]
        outcome.end = "gave up" if ended == "canceled" else ended
        outcome.code = (try_on.get("error") or {}).get("code", "")
        outcome.server = {name: float(seconds) for name, seconds in (try_on.get("timings") or {}).items()}

    async def _download(self, outcome: ClientOutcome) -> None:
        """Read the picture, slowly for a slow reader; one that cannot be read makes the try-on a failure."""
        began = time.perf_counter()
        http = self._slow if outcome.slow else self._http
        try:
            async with (
                asyncio.timeout(self._manners.timeout_s),
                http.stream("GET", f"/v1/try-ons/{outcome.job}/image") as answer,
            ):
                async for piece in answer.aiter_raw(1024 if outcome.slow else None):
                    if outcome.slow:
                        await asyncio.sleep(len(piece) / self._manners.slow_bytes_s)
                if answer.status_code != 200:
                    outcome.end, outcome.code = "failed", f"picture-{answer.status_code}"
        except (httpx.TransportError, TimeoutError) as error:
            outcome.end, outcome.code = "failed", f"picture-{type(error).__name__}"
        outcome.download = time.perf_counter() - began

    async def _take_back(self, outcome: ClientOutcome) -> None:
        """Cancel a job nobody waits for any more; whether that is heard changes nothing for this client."""
        if not outcome.job:
            return
        try:
            async with asyncio.timeout(10):
                await self._http.post(f"/v1/try-ons/{outcome.job}/cancel")
        except (httpx.TransportError, TimeoutError):
            outcome.code = outcome.code or "cancel-unheard"


def _first_send(outcome: ClientOutcome, due: float) -> Callable[[str, dict[str, Any]], Any]:
    """An httpcore trace that notes when the first attempt had its connection and began: the generator's lateness."""

    async def trace(event: str, _: dict[str, Any]) -> None:
        if outcome.late is None and event in SENDING:
            outcome.late = time.perf_counter() - due

    return trace
