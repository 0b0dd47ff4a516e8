"""The sizes of requests that somebody declares: what engines are built for, and what a warm-up makes ready."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS

_WRITTEN = re.compile(r"(\d+)x(\d+)(?::(\d+))?(?:\*(\d+))?")


@dataclass(frozen=True)
class WarmSize:
    """Requests of `width` x `height` pixels, up to `garments` each, up to `requests` together."""

    width: int
    height: int
    garments: int = MAX_GARMENTS
    requests: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `768x1024`, `768x1024:6` (garments) or `768x1024:6*4` (requests). Raises RequestError."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise RequestError(f"{text!r} is not WIDTHxHEIGHT[:GARMENTS][*REQUESTS], e.g. 768x1024:6*4")
        garments, requests = int(found[3] or MAX_GARMENTS), int(found[4] or 1)
        if not 1 <= garments <= MAX_GARMENTS or requests < 1:
            raise RequestError(f"{text!r}: 1 to {MAX_GARMENTS} garments, at least one request")
        return cls(int(found[1]), int(found[2]), garments, requests)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}:{self.garments}*{self.requests}"

    @classmethod
    def parse_all(cls, text: str) -> tuple[Self, ...]:
        """From buckets written with commas between them; none from an empty text. Raises RequestError."""
        return tuple(cls.parse(part.strip()) for part in text.split(",") if part.strip())

    def loads(self) -> Iterator[tuple[int, int]]:
        """Every (garments, requests) that it promises, the largest first: where room is short, they make it."""
        for requests in range(self.requests, 0, -1):
            for garments in range(self.garments, 0, -1):
                yield garments, requests
