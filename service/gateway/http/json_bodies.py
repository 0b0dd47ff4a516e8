"""JSON bodies with pictures in them, read without holding up anybody else.

A parser of JSON holds the interpreter until it is done, in whatever thread it runs, and pictures make a body large. So
the long strings, which can only be pictures, are cut out first by a search for their quotes; what is left is small, is
parsed and checked, and gets them back.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from service.errors import InvalidRequest, PayloadTooLarge
from service.gateway.http.texts import check_values, invalid_text

MAX_STRUCTURE = 20_000
MAX_SMALL_BYTES = 1 << 20
LONG_BYTES = 32 * 1024
ESCAPES = {
    rb"\/": b"/",
    rb"\n": b"\n",
    rb"\r": b"\r",
    rb"\u002b": b"+",
    rb"\u002B": b"+",
    rb"\u002f": b"/",
    rb"\u002F": b"/",
    rb"\u003d": b"=",
    rb"\u003D": b"=",
}
"""How encoders write the characters of base64; nothing else stands in a long string."""


class Structure:
    """Counts the values of a body while it arrives. Raises InvalidRequest when they are absurdly many."""

    def __init__(self) -> None:
        self._marks = 0
        self._quotes = 0

    def add(self, chunk: bytes) -> None:
        """Count one piece of the body."""
        self._marks += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{") + chunk.count(b":")
        self._quotes += chunk.count(b'"')
        if max(self._marks, self._quotes // 4) > MAX_STRUCTURE:
            raise InvalidRequest(f"The JSON has more than {MAX_STRUCTURE} values.", code="invalid-json")


def parse_body(data: bytes) -> Any:
    """The value of a JSON body; for a thread of its own.

    Raises InvalidRequest when it is not JSON, PayloadTooLarge when it is large without its long strings,
    UnprocessableRequest when it holds what is no text.
    """
    mark = secrets.token_hex(8)
    try:
        small, long = _cut(data, mark)
        if len(small) > MAX_SMALL_BYTES:
            raise PayloadTooLarge(
                f"Without its pictures a JSON body may have at most {MAX_SMALL_BYTES // 1024} kB.",
                code="field-too-large",
            )
        value = json.loads(_utf8(small), parse_constant=refuse_constant)
        check_values(value, "")
        return _put_back(value, {f"{mark}{index}": text for index, text in enumerate(long)})
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid-json") from error


def refuse_constant(name: str) -> None:
    """NaN and the infinities. Raises ValueError."""
    raise ValueError(f"{name} is not a JSON number")


def _cut(data: bytes, mark: str) -> tuple[bytes, list[str]]:
    """The body with a mark for each long string, and these strings. Raises ValueError."""
    parts: list[bytes] = []
    long: list[str] = []
    copied = at = 0
    while (start := data.find(b'"', at)) >= 0:
        end = _closing_quote(data, start)
        if end - start > LONG_BYTES:
            parts += [data[copied:start], b'"%s%d"' % (mark.encode(), len(long))]
            long.append(_picture_text(data[start + 1 : end]))
            copied = end + 1
        at = end + 1
    parts.append(data[copied:])
    return b"".join(parts), long


def _closing_quote(data: bytes, start: int) -> int:
    at = start + 1
    while (end := data.find(b'"', at)) >= 0:
        before = data[at:end]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return end
        at = end + 1
    raise ValueError(f"Unterminated string starting at: char {start}")


def _picture_text(raw: bytes) -> str:
    if b"\\" in raw:
        for escape, character in ESCAPES.items():
            raw = raw.replace(escape, character)
    if b"\\" in raw or not raw.isascii():
        raise ValueError(f"a string of more than {LONG_BYTES} bytes can only be a picture in base64")
    return raw.decode("ascii")


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise invalid_text("body") from None


def _put_back(value: Any, long: dict[str, str]) -> Any:
    if isinstance(value, str):
        return long.get(value, value)
    if isinstance(value, list):
        return [_put_back(item, long) for item in value]
    if isinstance(value, dict):
        if not long.keys().isdisjoint(value):
            raise ValueError(f"a name of more than {LONG_BYTES} bytes")
        return {key: _put_back(item, long) for key, item in value.items()}
    return value
