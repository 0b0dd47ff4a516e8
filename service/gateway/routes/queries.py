"""Query parameters, strictly: one that an operation does not know is refused instead of ignored, as is one sent twice.

Every router of the API has `KNOWN_QUERY` among its dependencies, so that no route can forget it. The studio page is a
page, not a call: what others append to its address to count clicks does not keep it from opening.
"""

from __future__ import annotations

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from service.errors import InvalidRequest


def known_query(request: Request) -> None:
    """Raises InvalidRequest for a query parameter that the request's route does not declare, or a repeated one."""
    route = request.scope["route"]
    known = sorted(field.alias for field in route.dependant.query_params) if isinstance(route, APIRoute) else []
    for name in request.query_params:
        if name not in known:
            others = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidRequest(
                f"There is no query parameter {name[:64]!r} here; {others}.",
                code="unknown-parameter",
                pointer=name[:64],
            )
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidRequest(f"The query parameter {name} was sent more than once.", pointer=name)


KNOWN_QUERY = Depends(known_query)
