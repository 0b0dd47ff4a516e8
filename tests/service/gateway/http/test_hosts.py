"""Which names are ours: loopback, the machine's own, numeric ones, those that are named, and the public address."""

from __future__ import annotations

import socket

import pytest

from service.gateway.http.hosts import Hosts, split_authority
from service.settings import load_settings


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "[::1]", "192.0.2.7", socket.gethostname()])
def test_these_are_always_ours(host: str) -> None:
    assert Hosts(load_settings()).answer_to(host.lower())


def test_the_public_address_is_ours() -> None:
    hosts = Hosts(load_settings(public_url="https://Try.example.com/fitting"))
    assert hosts.answer_to("try.example.com") and hosts.are_named("try.example.com")
    assert not hosts.answer_to("example.com") and not hosts.answer_to("evil.example")


def test_a_star_stands_for_names_below_and_alone_for_all() -> None:
    hosts = Hosts(load_settings(allowed_hosts="shop.example,*.inside.example"))
    assert hosts.answer_to("shop.example") and hosts.answer_to("a.inside.example")
    assert not hosts.answer_to("inside.example") and not hosts.answer_to("a.shop.example")
    assert Hosts(load_settings(allowed_hosts="*")).answer_to("anything.example")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("A.example.:80", ("a.example", 80)), ("[::1]", ("[::1]", None)), ("a b", None), ("", None), ("a:b", None)],
)
def test_authorities(text: str, parts: tuple[str, int | None] | None) -> None:
    assert split_authority(text) == parts
