"""Offers to go on in another protocol: declined, with the body kept, and nothing after it read as a request."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from besieged import MIB, Besieged, closed
from hostile_pictures import encoded, plain

HERE = Path(__file__).parent
PHOTO = encoded(plain(900, 1200), "JPEG")
SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
OFFERS = {
    "h2c": H2C,
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.2\r\n",
}
INNER = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def form() -> tuple[str, bytes]:
    """Content type and body of a whole try-on."""
    files = [("person", ("p.jpg", PHOTO, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
    request = httpx.Request("POST", "http://localhost/", files=files)
    return request.headers["content-type"], request.read()


def head(offer: bytes, more: bytes, line: bytes = b"POST /v1/try-ons") -> bytes:
    return line + b" HTTP/1.1\r\nHost: localhost\r\n" + offer + more + b"\r\n"


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")
def test_the_client_of_the_jdk_posts_a_form(besieged: Besieged, tmp_path: Path) -> None:
    kind, body = form()
    (tmp_path / "form").write_bytes(body)
    words = ["java", str(HERE / "Post.java"), besieged.url + "/v1/try-ons", kind, str(tmp_path / "form"), "3"]
    with besieged.siege():
        ran = subprocess.run(words, capture_output=True, text=True, timeout=170, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["202"] * 3, ran.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_with_http2_posts_a_form(besieged: Besieged, tmp_path: Path) -> None:
    features = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    if "HTTP2" not in features:
        pytest.skip("this curl has no HTTP/2")
    (tmp_path / "p.jpg").write_bytes(PHOTO)
    (tmp_path / "g.jpg").write_bytes(SHIRT)
    words = ["curl", "-sS", "--http2", "--noproxy", "*", besieged.url + "/v1/try-ons", "-w", " %{http_code}"]
    words += ["-F", f"person=@{tmp_path / 'p.jpg'}", "-F", f"garment=@{tmp_path / 'g.jpg'}"]
    with besieged.siege():
        ran = subprocess.run(words, capture_output=True, text=True, timeout=90, check=True)
    assert ran.stdout.endswith(" 202"), ran.stdout


@pytest.mark.parametrize("name", OFFERS)
def test_the_body_after_an_offer_is_the_body(besieged: Besieged, name: str) -> None:
    """With a length and in chunks, in one packet and in many; the connection goes on."""
    kind, body = form()
    with_kind = b"Content-Type: " + kind.encode() + b"\r\n"
    length = head(OFFERS[name], with_kind + b"Content-Length: %d\r\n" % len(body)) + body
    in_chunks = head(OFFERS[name], with_kind + b"Transfer-Encoding: chunked\r\n")
    in_chunks += b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    last = head(b"", b"Connection: close\r\n", b"GET /livez")
    with besieged.siege(growth=64 * MIB):
        for sent in (length, in_chunks):
            for step in (len(sent) + len(last), 1000):
                with besieged.connect() as raw:
                    whole = sent + last
                    for start in range(0, len(whole), step):
                        raw.sendall(whole[start : start + step])
                    _, said = closed(raw)
                assert said.startswith(b"HTTP/1.1 202 ") and said.count(b"HTTP/1.1 200 ") == 1, said[:400]


@pytest.mark.parametrize("name", OFFERS)
def test_nothing_of_a_body_after_an_offer_is_a_request(besieged: Besieged, name: str) -> None:
    """Also in a packet of its own; who offers an upgrade without a body is answered, and the next request too."""
    with besieged.siege(growth=64 * MIB):
        with besieged.connect() as raw:
            raw.sendall(head(OFFERS[name], b"Content-Length: %d\r\n" % len(INNER)))
            time.sleep(0.2)
            raw.sendall(INNER + head(b"", b"Connection: close\r\n", b"GET /livez"))
            _, said = closed(raw)
            assert said.startswith(b"HTTP/1.1 415 ") and said.count(b"HTTP/1.1 ") == 2, said
            assert said.count(b"HTTP/1.1 200 ") == 1, said
        with besieged.connect() as raw:
            raw.sendall(head(OFFERS[name], b"", b"GET /livez"))
            raw.sendall(head(OFFERS[name], b"Connection: close\r\n", b"GET /v1/models"))
            assert closed(raw)[1].count(b"HTTP/1.1 200 ") == 2


def test_a_tunnel_is_refused_and_closed(besieged: Besieged) -> None:
    with besieged.siege(growth=64 * MIB), besieged.connect() as raw:
        raw.sendall(b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n" + INNER)
        _, said = closed(raw)
    assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1 ") == 1
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "invalid-http"
