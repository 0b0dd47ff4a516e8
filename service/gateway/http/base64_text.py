"""Base64 (RFC 4648) as clients write it: with line breaks, in the URL's alphabet, with and without padding."""

from __future__ import annotations

import base64
from urllib.parse import unquote

PIECE = 1 << 20
_PLAIN = str.maketrans({"-": "+", "_": "/", " ": None, "\t": None, "\r": None, "\n": None, "\f": None, "\v": None})


class TooLong(ValueError):
    """The text stands for more bytes than are wanted."""


def decoded(text: str, most: int) -> bytes:
    """The bytes behind a text, at most `most`; piece by piece, so that other threads get on meanwhile.

    Raises TooLong, and ValueError for what is no base64: another character, one that is left over, padding before the
    end.
    """
    if "%" in text:  # as an address, a data: URL may have its +, / and = escaped
        text = unquote(text, errors="strict")
    found: list[bytes] = []
    size, rest = 0, ""
    for start in range(0, len(text), PIECE):
        rest += text[start : start + PIECE].translate(_PLAIN)
        whole = len(rest) - len(rest) % 4 - 4  # the last four may be padded
        if whole > 0:
            found.append(_strict(rest[:whole]))
            size, rest = size + len(found[-1]), rest[whole:]
        if size > most:
            raise TooLong
    found.append(_strict_end(rest))
    if size + len(found[-1]) > most:
        raise TooLong
    return b"".join(found)


def _strict(quads: str) -> bytes:
    if "=" in quads:
        raise ValueError("padding before the end")
    return base64.b64decode(quads, validate=True)


def _strict_end(rest: str) -> bytes:
    bare = rest.rstrip("=")
    if len(rest) - len(bare) > 2 or len(bare) % 4 == 1 or (rest != bare and len(rest) % 4):
        raise ValueError("left over at the end")
    return _strict(bare[: len(bare) // 4 * 4]) + base64.b64decode(
        bare[len(bare) // 4 * 4 :] + "=" * (-len(bare) % 4), validate=True
    )
