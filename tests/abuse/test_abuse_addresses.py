"""Addresses in requests: nothing inside the network is ever called, whatever it is called.

Names that resolve differently the second time (rebinding) are in tests/service/worker/test_webhooks.py, names of name
servers of the test's own in tests/service/gateway/work/test_webhook_addresses.py.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from besieged import Besieged, refused
from hostile_pictures import encoded, plain

SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
FILES = [("person", ("p.jpg", SHIRT, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
HOSTS = [
    "127.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "localhost",
    "LOCALHOST.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "192.0.0.8",
    "192.88.99.2",
    "192.31.196.1",
    "[2002:808:808::]",
    "[2620:4f:8000::1]",
    "[3fff::1]",
    "[2002:7f00:1::]",
    "user@127.0.0.1",
    "example.com@127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com",
    "169.254.169.254",
    "metadata.google.internal",
]


class Trap:
    """A listener that counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


def test_a_picture_is_never_fetched(besieged: Besieged, trap: Trap) -> None:
    with besieged.client() as client, besieged.siege():
        for scheme in ("http", "https", "ftp", "file", "gopher", "dict", "jar:http"):
            url = f"{scheme}://127.0.0.1:{trap.port}/picture.jpg"
            for path, body in (
                ("/v1/try-ons", {"person": url, "garments": [url]}),
                ("/v1/try-ons", {"person": f"data:image/svg+xml,<image href='{url}'/>", "garments": [url]}),
                ("/v1/run", {"model_name": "tryon-v1.6", "inputs": {"model_image": url, "garment_image": url}}),
            ):
                started = time.monotonic()
                refused(client.post(path, json=body), started, "image-url-refused", "invalid-base64")
        svg = f"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:{trap.port}/'/></svg>".encode()
        started = time.monotonic()
        answer = client.post("/v1/try-ons", files=[("person", ("p.svg", svg)), FILES[1]])
        refused(answer, started, "unsupported-image-format")
    assert trap.visits == 0


def test_a_webhook_never_reaches_inside(besieged: Besieged, trap: Trap) -> None:
    with besieged.client() as client, besieged.siege():
        for host in HOSTS:
            for address in (f"https://{host}:{trap.port}/hook", f"http://{host}:{trap.port}/", f"https://{host}/"):
                started = time.monotonic()
                answer = client.post("/v1/try-ons", files=FILES, data={"webhook_url": address})
                refused(answer, started, "forbidden-webhook-url", "invalid-field")
    assert trap.visits == 0
