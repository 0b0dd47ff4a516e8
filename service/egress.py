"""Calls to addresses that clients choose, without letting them steer us into our own network.

The address of a receiver is checked when we connect, and the connection goes to exactly the address that was
checked, so a name that resolves differently a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpcore

from service.errors import InvalidRequest

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenTarget(InvalidRequest):
    """The receiver's address is not on the public internet, or the URL is not one we call."""

    code, title = "forbidden-webhook-url", "This webhook address is not allowed"


def is_public(address: str) -> bool:
    """Whether `address` is a public unicast address, looking through IPv4 wrapped in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.teredo is not None or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


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
