"""The request headers that change what we do, read strictly: what we cannot honour is a 400."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers

from service.errors import InvalidRequest

MAX_WAIT_S = 60.0
SAID_ONCE = (
    *("host", "origin", "authorization", "x-api-key", "content-type", "content-length", "content-encoding"),
    *("sec-fetch-site", "last-event-id"),
)
"""Headers that decide who asks for what: who reads the first of two and who reads the last would disagree."""

_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,6})\"?$", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"^(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6}(?:\.\d{1,3})?)s?)?$", re.ASCII)
_KEY = re.compile(r"^[\x21-\x7e]{1,255}$", re.ASCII)
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$", re.ASCII)
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", re.ASCII)


def single(headers: Headers, name: str) -> str | None:
    """The value of a header that says one thing. Raises InvalidRequest when it was sent twice."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"{name} was sent {len(values)} times.", code="invalid-header", pointer=name)
    return values[0] if values else None


def said_twice(headers: Headers) -> InvalidRequest | None:
    """The refusal of the first of `SAID_ONCE` that was sent more than once, or None."""
    names = [name for name, _ in headers.raw]
    for name in SAID_ONCE:
        if names.count(name.encode()) > 1:
            shown = "-".join(word.capitalize() for word in name.split("-"))
            return InvalidRequest(f"{shown} was sent more than once.", code="invalid-header", pointer=shown)
    return None


def prefer_wait(value: str | None) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), capped at 60; None when absent.

    A preference is a wish: unknown or unreadable ones are ignored, as the RFC asks.
    """
    for part in (value or "").split(","):
        found = _WAIT.match(part.split(";")[0].strip())
        if found:
            return min(float(found[1]), MAX_WAIT_S)
    return None


def cancel_after(value: str | None, *, default_s: float, max_s: float) -> float:
    """Seconds until the deadline, from `Cancel-After: 90`, `90s`, `2m` or `1h30m`.

    Raises InvalidRequest when unreadable, under one second or over `max_s`.
    """
    if value is None:
        return default_s
    text = value.strip()
    found = _DURATION.match(text) if text else None
    seconds = 0.0
    if found:
        hours, minutes, rest = found.groups()
        seconds = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest or 0)
    if not 1.0 <= seconds <= max_s:
        raise InvalidRequest(
            f"Cancel-After must be a duration between 1s and {max_s:.0f}s, such as 90s or 2m.",
            code="invalid-header",
            pointer="Cancel-After",
        )
    return seconds


def idempotency_key(value: str | None) -> str | None:
    """The Idempotency-Key, with or without the draft's quotes. Raises InvalidRequest when malformed."""
    if value is None:
        return None
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not _KEY.match(text):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters; a UUID is a good choice.",
            code="invalid-header",
            pointer="Idempotency-Key",
        )
    return text


def request_id(value: str | None) -> str:
    """The caller's X-Request-Id when it is safe to log, else a new one."""
    if value and _REQUEST_ID.match(value):
        return value
    return "req_" + secrets.token_urlsafe(12)


def traceparent(value: str | None) -> str | None:
    """A well-formed W3C traceparent (version 00 shape), else None, as the spec asks."""
    if value and _TRACEPARENT.match(value) and not value.startswith("ff"):
        return value
    return None


def last_event_id(value: str | None) -> str | None:
    """The Last-Event-ID of a reconnecting event source. Raises InvalidRequest when it is not one of ours."""
    if not value:
        return None
    if not re.fullmatch(r"\d{1,20}(-\d{1,20})?", value, re.ASCII):
        raise InvalidRequest(
            "Last-Event-ID must be an id this stream sent before.",
            code="invalid-header",
            pointer="Last-Event-ID",
        )
    return value
