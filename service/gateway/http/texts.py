"""Text as it comes in, checked once at the door: Unicode that can be written as UTF-8, wherever it stands.

JSON may spell half of a surrogate pair, `"\\ud800"`; a form or an address may hold bytes that are no UTF-8. Such text
can neither be stored nor given back as it came, so it is refused, always with the same 422.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from service.errors import UnprocessableRequest

READ_HEADERS = frozenset({b"authorization", b"cancel-after", b"idempotency-key", b"last-event-id", b"x-api-key"})


def invalid_text(where: str) -> UnprocessableRequest:
    """Text at `where` that is none."""
    return UnprocessableRequest(
        f"{where}: this text is not Unicode (half of a surrogate pair, or bytes that are not UTF-8); send UTF-8.",
        code="invalid-text",
        pointer=where,
    )


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_values(value: Any, where: str) -> None:
    """Every key and string of a JSON value. Raises UnprocessableRequest that names the field."""
    if isinstance(value, str):
        if not is_text(value):
            raise invalid_text(where or "body")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not is_text(key):
                raise invalid_text(where or "body")
            check_values(item, f"{where}.{key[:64]}" if where else key[:64])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_values(item, f"{where}.{index}" if where else str(index))


def check_bytes(data: bytes | bytearray, charset: str, where: str) -> None:
    """The bytes of a form's text. Raises UnprocessableRequest."""
    try:
        text = data.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise invalid_text(where) from None
    if not is_text(text):
        raise invalid_text(where)


def wrong_in_head(raw_path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]) -> UnprocessableRequest | None:
    """What is no text in the address and in the headers that are read here, if anything."""
    for where, escaped in (("path", raw_path), ("query", query)):
        if (b"%" in escaped or not escaped.isascii()) and not _is_utf8(unquote_to_bytes(escaped)):
            return invalid_text(where)
    for name, value in headers:
        if name in READ_HEADERS and not value.isascii() and not _is_utf8(value):
            return invalid_text(name.decode())
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
