"""Clients that leave while they wait: their job is canceled where nobody else can ask for it, and only there."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import pytest
from gateway_live import Live, parts, picture

EDIT = [
    ("image[]", ("p.jpg", picture(colour="bisque"), "image/jpeg")),
    ("image[]", ("s.jpg", picture(64, 64, "navy"), "image/jpeg")),
]
TRY_ON = "/v1/try-ons", parts(), {}
WAITING = {"Prefer": "wait=50"}
KEY = {"Idempotency-Key": "left-behind"}


def leave(live: Live, path: str, files: Any, data: dict[str, str], headers: dict[str, str]) -> None:
    """Send a whole request, wait until its job is in the queue, and hang up; returns once the gateway has noticed."""
    request = httpx.Request("POST", live.url + path, files=files, data=data, headers=headers)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in request.headers.items() if k != "host")
    with socket.create_connection(("127.0.0.1", live.port())) as raw:
        raw.sendall(head.encode() + b"\r\n" + request.read())
        while live.call(live.queue.upkeep.backlog()).waiting == 0:
            time.sleep(0.02)
    while live.running():
        time.sleep(0.02)


def left_in_flight(live: Live) -> int:
    """Jobs in flight once every cancellation that was begun has ended."""

    async def settled() -> int:
        await live.app.state.gateway.departures.close()
        return (await live.queue.upkeep.backlog()).in_flight

    return int(live.call(settled()))


@pytest.mark.parametrize(
    ("path", "files", "data", "headers"),
    [
        ("/v1/images/edits", EDIT, {}, {}),
        ("/v1/images/edits", EDIT, {"stream": "true"}, {}),
        ("/v1/try-ons", parts(), {}, WAITING),
    ],
    ids=["edit", "stream", "native"],
)
def test_a_job_that_nobody_can_ask_for_is_canceled(
    held: Live, path: str, files: Any, data: dict[str, str], headers: dict[str, str]
) -> None:
    leave(held, path, files, data, headers)
    assert left_in_flight(held) == 0


@pytest.mark.parametrize(
    ("path", "files", "data", "headers"),
    [
        ("/v1/images/edits", EDIT, {}, KEY),
        ("/v1/images/edits", EDIT, {"stream": "true"}, {"Idempotency-Key": "left-streaming"}),
        ("/v1/try-ons", parts(), {}, WAITING | {"Idempotency-Key": "left-native"}),
    ],
    ids=["edit", "stream", "native"],
)
def test_a_key_leads_back_to_its_job(
    held: Live, path: str, files: Any, data: dict[str, str], headers: dict[str, str]
) -> None:
    leave(held, path, files, data, headers)
    assert left_in_flight(held) == 1
    held.resume()
    with held.client() as client:
        again = client.post(path, files=files, data=data, headers=headers)
    assert again.status_code == 200 and b"engine-failed" not in again.content and b"canceled" not in again.content


def test_a_webhook_tells_of_a_job_whose_client_has_left(launch: Any) -> None:
    told = launch(webhooks_enabled=True, webhook_secret="whsec_" + "a" * 32, webhook_allow_private=True)
    told.hold()
    leave(told, "/v1/try-ons", parts(), {"webhook_url": "http://127.0.0.1:49151/"}, WAITING)
    assert left_in_flight(told) == 1
    told.resume()


def test_who_only_reads_a_job_may_leave(held: Live) -> None:
    with held.client() as client:
        made = client.post("/v1/try-ons", files=parts()).json()
    with socket.create_connection(("127.0.0.1", held.port())) as raw:
        raw.sendall(f"GET {made['links']['self']} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=50\r\n\r\n".encode())
        while not held.running():
            time.sleep(0.02)
    assert left_in_flight(held) == 1
