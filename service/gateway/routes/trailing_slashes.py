"""A slash behind an address of the API changes nothing: many clients join base and path that way.

A redirect would do for reading, but clients answer one to a POST with a GET, or send their pictures twice.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

PAGES = ("/studio",)


class TrailingSlashes:
    """ASGI middleware around everything that looks at a path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if len(path) > 1 and path.endswith("/") and not path.startswith(PAGES):
                scope = {**scope, "path": path[:-1], "raw_path": path[:-1].encode()}
        await self._app(scope, receive, send)
