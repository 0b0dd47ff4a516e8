"""Pages of the web, and what they may do here.

A browser sends a plain form or text of any page to any address without asking first, so a request that changes
something is taken from our own page, from pages of the names in `allowed_hosts`, and from those of `cors_origins`; who
is no browser sends no Origin and is not concerned. To pages of `cors_origins` alone a browser also shows the answers.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden
from service.gateway.http import problems
from service.gateway.http.hosts import ANY, Hosts, split_authority
from service.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
EXPOSED = (
    *("Allow", "ETag", "Idempotent-Replayed", "Location", "Preference-Applied", "Retry-After", "Server-Timing"),
    *("X-Request-Id", "X-Fashn-Credits-Used"),
)
PREFLIGHT_S = 600
PORTS = {"http": 80, "https": 443}


class Origins:
    """Which pages may change something."""

    def __init__(self, settings: Settings, hosts: Hosts) -> None:
        self._listed = set(settings.origin_names)
        self._hosts = hosts

    def refusal(self, method: str, headers: Headers) -> Forbidden | None:
        """Why a page may not do this, or None. `headers` hold one valid Host, or none."""
        if method in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin is None:
            # Browsers say one of the two: https://www.w3.org/TR/fetch-metadata/
            return None if headers.get("sec-fetch-site", "none") in ("none", "same-origin") else refused()
        if ANY in self._listed or origin.lower() in self._listed or self._is_ours(origin, headers.get("host", "")):
            return None
        return refused()

    def _is_ours(self, origin: str, host: str) -> bool:
        scheme, _, authority = origin.lower().partition("://")
        theirs, ours = split_authority(authority), split_authority(host)
        if scheme not in PORTS or theirs is None:
            return False
        if self._hosts.are_named(theirs[0]):
            return True
        default = PORTS[scheme]
        return ours is not None and (theirs[0], theirs[1] or default) == (ours[0], ours[1] or default)


def refused() -> Forbidden:
    """A page that is not ours."""
    return Forbidden(
        "A page of this origin may not do this; add the origin to CHANGEROOM_CORS_ORIGINS, or its host to "
        "CHANGEROOM_ALLOWED_HOSTS when it is this service under another name.",
        code="origin-not-allowed",
        pointer="Origin",
    )


class Cors(CORSMiddleware):
    """Starlette's, for the origins of the settings, with refusals that are problems. No cookies: keys are headers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.origin_names,
            allow_methods=METHODS,
            allow_headers=(ANY,),
            allow_private_network=True,
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            asks = "access-control-request-method" in headers
            if asks and "origin" in headers and not self.is_allowed_origin(headers["origin"]):
                answer: Response = problems.response(refused(), Request(scope))
                await answer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def is_allowed_origin(self, origin: str) -> bool:
        """Without regard to the case of scheme and host, like `Origins`."""
        return super().is_allowed_origin(origin.lower())
