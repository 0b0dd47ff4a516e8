"""Connections by the address they come from, so that one client cannot take every seat of a gateway.

Behind a proxy every connection has the proxy's address; those of `trusted_proxies` are not counted. By default that is
every address that is not public: whoever comes from one is a proxy, a container's bridge or a neighbour.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from service.settings import Settings, SettingsError

PRIVATE = "private"
IPV6_CLIENT_BITS = 64  # a household or a server is given as many; the rest of the address is its own choice


class Peers:
    """How many connections each address has. Raises SettingsError for a trusted proxy that is not a network."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_connections_per_address
        self._private_too, self._trusted = trusted_networks(settings)
        self._open: Counter[str] = Counter()

    def enter(self, host: str) -> str | None:
        """The name that a new connection from `host` counts under, an IPv6 /64 as one; None when it is not counted."""
        try:
            address = ip_address(host)
        except ValueError:  # a unix socket
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if not self._most or any(address in network for network in self._trusted):
            return None
        if self._private_too and not address.is_global:
            return None
        name = client_name(address)
        self._open[name] += 1
        return name

    def crowded(self, name: str | None) -> bool:
        """Whether more connections than one address may have are open under this name."""
        return name is not None and self._open[name] > self._most

    def leave(self, name: str | None) -> None:
        """One connection less under this name."""
        if name is not None:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


def client_name(address: IPv4Address | IPv6Address) -> str:
    """The name under which a client of this address is known: an IPv6 /64 is one."""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Network((address, IPV6_CLIENT_BITS), strict=False))
    return str(address)


def trusted_networks(settings: Settings) -> tuple[bool, list[IPv4Network | IPv6Network]]:
    """Whether every private address is trusted, and the networks that are named. Raises SettingsError."""
    words = [word.strip() for word in settings.trusted_proxies.split(",") if word.strip()]
    return PRIVATE in words, [_network(word) for word in words if word != PRIVATE]


def _network(word: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(word)
    except ValueError as error:
        raise SettingsError(f"CHANGEROOM_TRUSTED_PROXIES: {word!r} is neither a network nor {PRIVATE}") from error
