"""The names this service answers to.

A page of a stranger may have its own name resolve to this machine (DNS rebinding) and would then be of the same origin
as the service. Its requests still say the stranger's name in `Host`, so only known names are answered: those of
loopback, this machine's own, those of `allowed_hosts` and `public_url`, and every numeric address, which no name server
can turn.
"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from service.settings import Settings

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII)
ANY = "*"


def split_authority(text: str) -> tuple[str, int | None] | None:
    """Host (lower case, without a last dot) and port of `host[:port]`, or None when it is neither."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    return found[1].lower().removesuffix("."), int(found[2]) if found[2] else None


class Hosts:
    """Which names are ours."""

    def __init__(self, settings: Settings) -> None:
        words = settings.host_names
        self._any = ANY in words
        self._named = {word for word in words if not word.startswith(ANY)}
        if settings.public_url is not None:
            self._named.add(str(urlsplit(settings.public_url).hostname))
        self._under = tuple(word[1:] for word in words if word.startswith("*."))
        self._own = {"localhost", socket.gethostname().lower()}

    def answer_to(self, host: str) -> bool:
        """Whether a request for this host is for us."""
        if self._any or host in self._own or host.endswith(".localhost") or self.are_named(host):
            return True
        try:
            ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True

    def are_named(self, host: str) -> bool:
        """Whether the settings name this host."""
        return host in self._named or host.endswith(self._under or (ANY,))
