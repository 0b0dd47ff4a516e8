"""Parts of a picture: `Range: bytes=…` (RFC 9110, section 14), for players, resumed downloads and image loaders."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import Response

from service.errors import ServiceError

_RANGE = re.compile(r"^bytes\s*=\s*(\d{0,18})-(\d{0,18})$", re.ASCII | re.IGNORECASE)


class RangeNotSatisfiable(ServiceError):
    status, code, title = 416, "range-not-satisfiable", "There is no such part of the picture"


def answer(data: bytes, kind: str, etag: str, asked: Headers, headers: dict[str, str]) -> Response:
    """The whole (200), or the one part that was asked for (206).

    Several parts, units that are not bytes, and an `If-Range` that names another picture are answered with the whole,
    as the RFC allows. Raises RangeNotSatisfiable for a part behind the end.
    """
    headers = headers | {"Accept-Ranges": "bytes"}
    part = _part(asked.get("range", ""), len(data))
    if part is None or asked.get("if-range", etag) != etag:
        return Response(data, media_type=kind, headers=headers)
    first, last = part
    if first > last:
        raise RangeNotSatisfiable(f"The picture has {len(data)} bytes; ask for a part of them.", pointer="Range")
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], status_code=206, media_type=kind, headers=headers)


def _part(said: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte; None where the whole is meant, first > last where there is no such part."""
    found = _RANGE.match(said.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return (size - min(int(last), size), size - 1) if int(last) else (size, size - 1)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last), size - 1) if last else size - 1
