"""Offers to go on in another protocol (`Connection: Upgrade`, h2c and websockets): declined, with the body kept.

RFC 9110 (7.8) lets a server ignore such an offer and answer in HTTP/1.1. The parser does not: it takes every byte after
the head for the other protocol, so that uvicorn loses the body and reads what comes later as a new request. A fresh
parser that has not seen the offer reads on instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httptools

OF_THE_BODY = frozenset({b"content-length", b"transfer-encoding"})


def fresh_parser(protocol: Any) -> httptools.HttpRequestParser:
    """A parser as uvicorn makes it: what comes after `Connection: close` is no error."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def body_parser(protocol: Any) -> httptools.HttpRequestParser:
    """A parser that tells `protocol` nothing of the first head it reads, and everything after it."""
    return fresh_parser(_AfterTheHead(protocol))


def head_without_offer(version: str, headers: Iterable[tuple[bytes, bytes]], keep_alive: bool) -> bytes:
    """The head of a request again, with only what says where its body ends. `headers` have lower-case names."""
    lines = [b"POST / HTTP/" + version.encode(), b"connection: " + (b"keep-alive" if keep_alive else b"close")]
    lines += [name + b": " + value for name, value in headers if name in OF_THE_BODY]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class _AfterTheHead:
    """The callbacks of a parser; the first head is known already."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._told = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._told:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._told:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._told:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._told:
            self._protocol.on_headers_complete()
        self._told = True
