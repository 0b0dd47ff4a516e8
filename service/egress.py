"""Calls to addresses that clients choose, without letting them steer us into our own network.

The address of a receiver is checked when we connect, and the connection goes to exactly the address that was
checked, so a name that resolves differently a moment later (DNS rebinding) gains nothing.

Which addresses are public is written down here and not left to `ipaddress`, whose answer is not the same in every
Python and calls parts of special ranges global (192.0.0.9, of a router's port mapping). What the IANA registries of
special-purpose addresses name (RFC 6890 and its updates) is not called, reachable or not: no customer's server is
there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpcore

from service.errors import InvalidRequest

_SPECIAL = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments: DS-Lite, dummy address, port control, NAT64 discovery
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_UNICAST6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, AMT, AS112, ORCHID, drones
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenTarget(InvalidRequest):
    """The receiver's address is not on the public internet, or the URL is not one we call."""

    code, title = "forbidden-webhook-url", "This webhook address is not allowed"


def is_public(address: str) -> bool:
    """Whether `address` is a public unicast address, looking through IPv4 mapped into IPv6 or behind NAT64."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is None:
            return ip in _UNICAST6 and not any(ip in network for network in _SPECIAL6)
        ip = wrapped
    return not any(ip in network for network in _SPECIAL)


def check_url(url: str, *, allow_private: bool = False) -> None:
    """Refuse what can be seen to be wrong before any lookup. Raises ForbiddenTarget."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ForbiddenTarget("a webhook URL has only printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForbiddenTarget(f"the webhook URL cannot be read: {error}") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ForbiddenTarget("a webhook URL starts with https://")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ForbiddenTarget("a webhook URL names a host and carries no user or password")
    if port is not None and port < 1024 and port not in (80, 443):
        raise ForbiddenTarget(f"a webhook URL does not use port {port}")


class VettedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses: resolves once, checks every answer, connects to a checked one."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def resolve(self, host: str, port: int) -> list[str]:
        """Addresses of `host`, all vetted. Raises ForbiddenTarget, or OSError when it does not resolve."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise ForbiddenTarget("the webhook host does not resolve to public addresses only")
        return addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.resolve(host, port)
        failure: Exception = OSError(f"{host} has no address")
        for address in addresses[:3]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenTarget("webhooks are not sent to local sockets")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
