"""Webhook addresses are looked at when the request comes, and nothing inside our network can be named or probed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gateway_live import Live, data_url, picture

PERSON, SHIRT = picture(colour="bisque"), picture(64, 64, "navy")
FILES = [("person", ("p.jpg", PERSON, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
INTERNAL = "internal.test"
PUBLIC = "public.test"
BOTH = "both.test"
SILENT = "silent.test"
RESTS = threading.Event()


@pytest.fixture(scope="module")
def calling(launch: Callable[..., Live]) -> Iterator[Live]:
    """A service with webhooks, and name servers of the test's own."""
    real = socket.getaddrinfo
    answers = {INTERNAL: ("10.1.2.3",), PUBLIC: ("93.184.216.34",), BOTH: ("93.184.216.34", "10.1.2.3")}

    def lookup(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host == SILENT:
            RESTS.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "silent")
        if host in answers:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[host]]
        return real(host, port, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lookup)
        yield launch(webhooks_enabled=True)
    RESTS.set()


@pytest.fixture
def client(calling: Live) -> Iterator[httpx.Client]:
    with calling.client() as client:
        yield client


@pytest.mark.parametrize(
    "url",
    [
        "http://public.test/",
        "ftp://public.test/",
        "file:///etc/passwd",
        "gopher://public.test:70/",
        "//public.test/",
        "https://",
        "https://user:word@public.test/",
        "https://public.test:22/",
        "https://public.test:99999/",
        "https://public.test/\r\nX-Injected: 1",
        "https://exämple.test/",
        "https://127.0.0.1:8443/",
        "https://[::1]:8443/",
        "https://[::ffff:169.254.169.254]/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://0/",
        "https://localhost:9000/",
        f"https://{INTERNAL}/",
        f"https://{BOTH}/",
        "https://no-such-host.invalid/",
        "https://" + "a" * 70 + ".test/",
        "https://a..b/",
    ],
)
def test_an_address_we_would_never_call_is_refused_at_once(calling: Live, client: httpx.Client, url: str) -> None:
    answer = client.post("/v1/try-ons", files=FILES, data={"webhook_url": url})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "forbidden-webhook-url" and answer.json()["pointer"] == "webhook_url"
    assert calling.call(calling.queue.upkeep.backlog()).in_flight == 0


def test_a_private_name_and_a_missing_one_cannot_be_told_apart(client: httpx.Client) -> None:
    said = [
        client.post("/v1/try-ons", files=FILES, data={"webhook_url": f"https://{host}/"}).json()["detail"]
        for host in (INTERNAL, "no-such-host.invalid")
    ]
    assert said[0] == said[1]


def test_a_public_address_is_accepted_in_every_shape_of_the_api(client: httpx.Client) -> None:
    url = f"https://{PUBLIC}/hook?order=7"
    assert client.post("/v1/try-ons", files=FILES, data={"webhook_url": url}).status_code == 202
    body = {"person": data_url(PERSON), "garments": [data_url(SHIRT)], "webhook_url": url}
    assert client.post("/v1/try-ons", json=body).status_code == 202
    inputs = {"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)}
    run: dict[str, Any] = {"model_name": "tryon-v1.6", "inputs": inputs}
    assert client.post("/v1/run", json=run | {"webhook_url": url}).status_code == 200
    for wrong, code in ((f"https://{INTERNAL}/", "forbidden-webhook-url"), ("https://a/\x00", "invalid-field")):
        answer = client.post("/v1/run", json=run | {"webhook_url": wrong})
        assert 400 <= answer.status_code < 500 and answer.json()["code"] == code, answer.text


def test_silent_name_servers_hold_up_nobody_else(client: httpx.Client) -> None:
    slow = [
        threading.Thread(
            target=lambda: httpx.post(
                client.base_url.join("/v1/try-ons"),
                files=FILES,
                data={"webhook_url": f"https://{SILENT}/"},
                timeout=60,
                verify=False,
            )
        )
        for _ in range(8)
    ]
    for one in slow:
        one.start()
    answer = client.post("/v1/try-ons", files=FILES, headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "succeeded"
    late = client.post("/v1/try-ons", files=FILES, data={"webhook_url": f"https://{SILENT}/"})
    assert late.status_code == 202
    for one in slow:
        one.join(60)


def test_private_receivers_are_a_choice_of_ours(launch: Callable[..., Live]) -> None:
    with launch(webhooks_enabled=True, webhook_allow_private=True).client() as client:
        for url, status in (("http://127.0.0.1:9000/", 202), ("ftp://127.0.0.1/", 400)):
            assert client.post("/v1/try-ons", files=FILES, data={"webhook_url": url}).status_code == status
