"""CORS and the names of the service, as the settings say them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from gateway_live import Live, parts

from service.gateway.http.hosts import Hosts, split_authority
from service.settings import Settings, SettingsError, load_settings

SHOP, APP = "https://shop.example", "capacitor://localhost"
NAME = "try.shop.example"


@pytest.fixture(scope="module")
def named(launch: Callable[..., Live]) -> Live:
    return launch(cors_origins=f"{SHOP}, {APP}", allowed_hosts=f"{NAME},*.inside.example")


def preflight(client: httpx.Client, origin: str, method: str = "POST", **more: str) -> httpx.Response:
    asking = {"Origin": origin, "Access-Control-Request-Method": method, **more}
    return client.options("/v1/try-ons", headers=asking)


@pytest.mark.parametrize("origin", [SHOP, APP, "https://SHOP.example"])
def test_a_page_of_the_settings_asks_calls_and_reads(named: Live, origin: str) -> None:
    with named.client() as client:
        asked = preflight(
            client,
            origin,
            **{
                "Access-Control-Request-Headers": "authorization,idempotency-key,prefer,x-stainless-os",
                "Access-Control-Request-Private-Network": "true",
            },
        )
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == origin
        assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
        assert {"POST", "PUT", "DELETE"} <= set(asked.headers["access-control-allow-methods"].split(", "))
        assert asked.headers["access-control-allow-private-network"] == "true"
        assert "access-control-allow-credentials" not in asked.headers
        for answer in (
            client.post("/v1/try-ons", files=parts(), headers={"Origin": origin}),
            client.post("/v1/try-ons", headers={"Origin": origin}),
            client.get("/v1/models", headers={"Origin": origin}),
            client.get("/nothing", headers={"Origin": origin}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"Location", "Retry-After", "X-Request-Id", "Idempotent-Replayed", "ETag"} <= set(exposed)
        assert client.post("/v1/try-ons", files=parts(), headers={"Origin": origin}).status_code == 202


def test_every_answer_varies_by_origin_so_that_no_cache_mixes_them(named: Live) -> None:
    with named.client() as client:
        assert "Origin" in client.get("/v1/models").headers["vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://shop.example", SHOP + ":8443", "null", SHOP + ".evil"]
)
def test_other_pages_are_refused_with_a_problem(named: Live, origin: str) -> None:
    with named.client() as client:
        for answer in (
            preflight(client, origin),
            client.post("/v1/try-ons", files=parts(), headers={"Origin": origin}),
        ):
            assert answer.status_code == 403 and answer.json()["code"] == "origin-not-allowed"
            assert "access-control-allow-origin" not in answer.headers


def test_behind_a_proxy_that_says_another_name_our_page_is_still_ours(named: Live) -> None:
    with named.client() as client:
        for origin in (f"https://{NAME}", "https://a.inside.example:8443"):
            answer = client.post("/v1/try-ons", files=parts(), headers={"Origin": origin})
            assert answer.status_code == 202, answer.text
        for host, status in ((NAME, 200), (NAME.upper() + ":443", 200), ("inside.example", 421), ("x." + NAME, 421)):
            assert client.get("/livez", headers={"Host": host}).status_code == status


def test_any_page_may_where_the_settings_say_so(launch: Callable[..., Live]) -> None:
    with launch(cors_origins="*", allowed_hosts="*").client() as client:
        asked = preflight(client, "https://any.example")
        assert asked.headers["access-control-allow-origin"] == "*"
        answer = client.post("/v1/try-ons", files=parts(), headers={"Origin": "null", "Host": "any.example"})
        assert answer.status_code == 202 and answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", "https://shop.example"),
        ("allowed_hosts", "shop.example:8000"),
        ("allowed_hosts", "shop.*"),
        ("cors_origins", "shop.example"),
        ("cors_origins", "https://shop.example/"),
        ("cors_origins", "https://shop.example/page"),
        ("cors_origins", "null"),
    ],
)
def test_a_setting_that_would_never_match_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"CHANGEROOM_{name.upper()}: '"):
        load_settings(**{name: value})


def test_authorities_and_names() -> None:
    assert split_authority("A.example.:80") == ("a.example", 80)
    assert split_authority("[::1]") == ("[::1]", None)
    for text in ("", "a b", "a:b", "a@b", "[::1", "a/", "é", "a\n", "a:123456"):
        assert split_authority(text) is None, text
    hosts = Hosts(Settings())
    for host in ("localhost", "a.localhost", "127.0.0.1", "10.1.2.3", "[::1]", "[2001:db8::1]"):
        assert hosts.answer_to(host), host
    for host in ("evil.example", "localhost.evil.example", "127.1", "2130706433", "xlocalhost"):
        assert not hosts.answer_to(host), host
