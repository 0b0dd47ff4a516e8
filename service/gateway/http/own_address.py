"""Where this service is, as its clients see it: the beginning of every absolute address it writes.

`Host` and `X-Forwarded-*` are what a stranger wrote. An address made of them would carry the signature of a picture to
wherever the stranger says. So they are believed only where it cannot be somebody else's: `CHANGEROOM_PUBLIC_URL` says
it all; else a proxy in a network that `CHANGEROOM_TRUSTED_PROXIES` names tells host, scheme and prefix (the word
`private` there is too wide for that: it holds every neighbour); else it is the socket the request came in by. A caller
that says localhost is told localhost, which is nobody's machine but its own.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from starlette.requests import Request

from service.gateway.http.peers import trusted_networks
from service.settings import Settings

_HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$", re.ASCII)
_LOCAL = re.compile(r"^(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?$", re.ASCII)
_PREFIX = re.compile(r"^(?:/[A-Za-z0-9._~-]{1,64}){1,8}/?$", re.ASCII)


class OwnAddress:
    """Raises SettingsError for a trusted proxy that is not a network."""

    def __init__(self, settings: Settings) -> None:
        self._public = settings.public_url
        _, self._proxies = trusted_networks(settings)

    def of(self, request: Request) -> str:
        """Scheme, host and prefix, without a slash at the end: `https://try.example.com/fitting`."""
        if self._public is not None:
            return self._public
        if self._from_proxy(request):
            return self._forwarded(request)
        host = request.headers.get("host", "")
        return f"{request.url.scheme}://{host if _LOCAL.match(host) else _socket(request)}"

    def _from_proxy(self, request: Request) -> bool:
        try:
            peer = ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _forwarded(self, request: Request) -> str:
        scheme = _last(request, "x-forwarded-proto")
        host = _last(request, "x-forwarded-host") or request.headers.get("host", "")
        prefix = _last(request, "x-forwarded-prefix")
        return (
            f"{scheme if scheme in ('http', 'https') else request.url.scheme}://"
            f"{host if _HOST.match(host) else _socket(request)}"
            f"{prefix.rstrip('/') if _PREFIX.match(prefix) else ''}"
        )


def _last(request: Request, name: str) -> str:
    """What the nearest proxy said: it writes behind what others wrote."""
    return ",".join(request.headers.getlist(name)).rpartition(",")[2].strip()


def _socket(request: Request) -> str:
    host, port = request.scope.get("server") or ("localhost", None)
    shown = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[request.url.scheme]
    return shown if port in (None, default) else f"{shown}:{port}"
