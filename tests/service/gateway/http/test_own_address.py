"""Absolute addresses are made of what we know and of what trusted proxies say, never of what a stranger wrote."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from gateway_live import Live, data_url, picture
from starlette.requests import Request

from service.gateway.http.own_address import OwnAddress
from service.settings import Settings, SettingsError, load_settings

PERSON, SHIRT = picture(colour="bisque"), picture(64, 64, "navy")
FORGED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "host=evil.example",
}


def address(
    headers: list[tuple[str, str]], *, client: str = "8.8.8.8", server: tuple[str, int | None] = ("10.0.0.7", 8000),
    scheme: str = "http", **settings: str,
) -> str:  # fmt: skip
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {
        "type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw, "scheme": scheme,
        "client": (client, 1), "server": server,
    }  # fmt: skip
    return OwnAddress(Settings(**settings)).of(Request(scope))


def test_a_public_url_is_everything() -> None:
    for headers in ([], list(FORGED.items())):
        said = address(headers, public_url="https://try.example.com/fitting/", trusted_proxies="8.8.8.0/24")
        assert said == "https://try.example.com/fitting"


@pytest.mark.parametrize("client", ["8.8.8.8", "127.0.0.1", "10.1.2.3"])
def test_a_stranger_is_told_the_socket_it_came_to(client: str) -> None:
    """`private`, the default, holds every neighbour: enough not to count connections, too wide to be believed."""
    assert address(list(FORGED.items()), client=client) == "http://10.0.0.7:8000"
    assert address([], client=client, server=("::1", 80)) == "http://[::1]"


def test_localhost_is_the_callers_own_machine_and_may_be_called_so() -> None:
    for host in ("localhost:9000", "127.0.0.1:9000", "[::1]"):
        assert address([("Host", host)]) == f"http://{host}"
    assert address([("Host", "localhost.evil.example")]) == "http://10.0.0.7:8000"


NAMED = {"trusted_proxies": "private, 198.41.0.0/24"}


def test_a_named_proxy_tells_host_scheme_and_prefix() -> None:
    said = [("Host", "inside"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "try.example.com:8443")]
    assert address(said, client="198.41.0.4", **NAMED) == "https://try.example.com:8443"
    prefixed = [*said, ("X-Forwarded-Prefix", "/fitting/room/")]
    assert address(prefixed, client="198.41.0.4", **NAMED) == "https://try.example.com:8443/fitting/room"
    assert address([("Host", "inside")], client="198.41.0.4", **NAMED) == "http://inside"
    assert address(prefixed, client="198.41.1.4", **NAMED) == "http://10.0.0.7:8000"


def test_of_several_words_the_nearest_proxys_counts() -> None:
    said = [("X-Forwarded-Host", "evil.example, try.example.com"), ("X-Forwarded-Proto", "gopher"),
            ("X-Forwarded-Proto", "https")]  # fmt: skip
    assert address(said, client="198.41.0.4", **NAMED) == "https://try.example.com"


@pytest.mark.parametrize("odd", ["a b", "a/b", "user@host", "host:port", "", "x" * 300, "a\\b"])
def test_a_host_that_is_none_is_not_written_into_an_address(odd: str) -> None:
    said = [("X-Forwarded-Host", odd), ("X-Forwarded-Prefix", "/../x y")]
    assert address(said, client="198.41.0.4", **NAMED) == "http://10.0.0.7:8000"


@pytest.mark.parametrize("url", ["try.example.com", "ftp://try.example.com", "https://", "https://x.example/?a=1"])
def test_a_public_url_that_is_none_is_a_mistake_at_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="CHANGEROOM_PUBLIC_URL"):
        load_settings(public_url=url)


def test_no_answer_repeats_a_forged_host(launch: Callable[..., Live]) -> None:
    live = launch(allowed_hosts="*")  # where the names are known, a forged one is a 421
    files = [("image", ("p.jpg", PERSON, "image/jpeg")), ("image", ("s.jpg", SHIRT, "image/jpeg"))]
    inputs = {"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)}
    with live.client() as http:
        edited = http.post("/v1/images/edits", files=files, data={"response_format": "url"}, headers=FORGED)
        assert edited.status_code == 200 and "evil" not in edited.text
        assert edited.json()["data"][0]["url"].startswith(live.url + "/v1/try-ons/")
        run = http.post("/v1/run", json={"model_name": "tryon-v1.6", "inputs": inputs}, headers=FORGED).json()
        http.get(f"/v1/try-ons/{run['id']}", headers={"Prefer": "wait=20"})
        done = http.get(f"/v1/status/{run['id']}", headers=FORGED)
    assert done.json()["status"] == "completed" and "evil" not in done.text
    assert httpx.get(done.json()["output"][0]).headers["content-type"] == "image/png"


def test_the_public_url_is_in_every_absolute_address(launch: Callable[..., Live]) -> None:
    with launch(public_url="https://try.example.com").client() as client:
        files = [("image", ("p.jpg", PERSON, "image/jpeg")), ("image", ("s.jpg", SHIRT, "image/jpeg"))]
        edited = client.post("/v1/images/edits", files=files, data={"response_format": "url"}).json()
    assert edited["data"][0]["url"].startswith("https://try.example.com/v1/try-ons/")
