"""Pages of strangers in a browser on the same machine or network, against a service with its defaults."""

from __future__ import annotations

import json
import time

import pytest
from besieged import MIB, Besieged, closed, refused
from hostile_pictures import encoded, plain

SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
FILES = [("person", ("p.jpg", SHIRT, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
STRANGERS = ["http://evil.example", "https://localhost.evil.example", "null", "file://", "http://localhost:1", ""]
REBOUND = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:8000",
    "127.1",
    "0x7f000001",
]
CHANGES = [
    ("POST", "/v1/try-ons"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/run"),
    ("PUT", "/v1/garments/A-1"),
    ("DELETE", "/v1/garments/A-1"),
    ("DELETE", "/v1/try-ons/0123456789abcdef0123456789abcdef"),
    ("POST", "/v1/try-ons/0123456789abcdef0123456789abcdef/cancel"),
]


@pytest.mark.parametrize("origin", STRANGERS)
def test_a_page_of_a_stranger_changes_nothing(besieged: Besieged, origin: str) -> None:
    with besieged.client() as client, besieged.siege(growth=64 * MIB):
        for method, path in CHANGES:
            started = time.monotonic()
            answer = client.request(method, path, headers={"Origin": origin}, files=FILES)
            refused(answer, started, "origin-not-allowed")
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        asking = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        assert client.options("/v1/garments/A-1", headers=asking).status_code == 403
        assert "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": origin}).headers


def test_a_page_that_hides_its_origin_is_known_by_how_it_was_fetched(besieged: Besieged) -> None:
    with besieged.client() as client:
        for site in ("cross-site", "same-site"):
            started = time.monotonic()
            answer = client.post("/v1/try-ons", files=FILES, headers={"Sec-Fetch-Site": site})
            refused(answer, started, "origin-not-allowed")
        for site in ("none", "same-origin"):
            assert client.post("/v1/try-ons", files=FILES, headers={"Sec-Fetch-Site": site}).status_code == 202


def test_our_own_page_may(besieged: Besieged) -> None:
    with besieged.client() as client:
        for host, origin in (
            (f"127.0.0.1:{besieged.port}", f"http://127.0.0.1:{besieged.port}"),
            (f"localhost:{besieged.port}", f"HTTP://LocalHost:{besieged.port}"),
            ("localhost", "https://localhost"),
            ("192.168.1.5:80", "http://192.168.1.5"),
        ):
            answer = client.post("/v1/try-ons", files=FILES, headers={"Host": host, "Origin": origin})
            assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("host", REBOUND)
def test_a_name_that_was_turned_to_this_machine_is_not_answered(besieged: Besieged, host: str) -> None:
    with besieged.client() as client:
        for method, path in [*CHANGES, ("GET", "/"), ("GET", "/metrics"), ("GET", "/v1/models")]:
            started = time.monotonic()
            answer = client.request(method, path, headers={"Host": host})
            refused(answer, started, "host-not-allowed")
            assert answer.status_code == 421


TARGETS = {
    b"GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n": 421,
    b"GET http://localhost/livez HTTP/1.1\r\nHost: evil.example\r\n": 200,
    b"GET http://localhost@evil.example/livez HTTP/1.1\r\nHost: localhost\r\n": 400,
    b"GET http://localhost?@evil.example/livez HTTP/1.1\r\nHost: localhost\r\nHost: a\r\n": 400,
    b"GET /livez HTTP/1.1\r\n": 400,
    b"GET /livez HTTP/1.0\r\n": 200,
    b"GET /livez HTTP/1.0\r\nHost: evil.example\r\n": 421,
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost:\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: localhost, evil.example\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: evil.example#localhost\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: user@localhost\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: localhost:80:80\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: [::1\r\n": 400,
    b"GET /livez HTTP/1.1\r\nHost: [::1]:8000\r\n": 200,
    b"GET /livez HTTP/1.1\r\nHost: LOCALHOST.:8000\r\n": 200,
}


@pytest.mark.parametrize("head", TARGETS)
def test_a_request_is_for_one_host(besieged: Besieged, head: bytes) -> None:
    with besieged.connect() as raw:
        raw.sendall(head + b"Connection: close\r\n\r\n")
        _, said = closed(raw)
    assert said.startswith(b"HTTP/1.1 %d " % TARGETS[head]), said
    if TARGETS[head] != 200:
        assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] in (
            "host-not-allowed",
            "invalid-header",
            "invalid-http",
        )


TWICE = [
    ([("Authorization", "Bearer cr_a"), ("Authorization", "Bearer cr_a")], "Authorization"),
    ([("authorization", "Bearer cr_a"), ("Authorization", "Basic eDp5")], "Authorization"),
    ([("X-API-Key", "cr_a"), ("X-API-Key", "cr_b")], "X-Api-Key"),
    ([("Content-Type", "application/json"), ("Content-Type", "multipart/form-data; boundary=b")], "Content-Type"),
    ([("Origin", "http://localhost"), ("Origin", "http://evil.example")], "Origin"),
]


@pytest.mark.parametrize(("headers", "pointer"), TWICE)
def test_who_asks_is_said_once(besieged: Besieged, headers: list[tuple[str, str]], pointer: str) -> None:
    with besieged.client() as client:
        for path in ("/v1/try-ons", "/v1/run", "/v1/images/edits"):
            started = time.monotonic()
            answer = client.post(path, content=b"{}", headers=headers)
            assert refused(answer, started, "invalid-header")["pointer"] == pointer
