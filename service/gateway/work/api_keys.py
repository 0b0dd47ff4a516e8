"""API keys: 256 random bits each, kept only as SHA-256 digests, compared in constant time.

A slow password hash would add nothing: the keys are random, not chosen by people, and out of reach of any
dictionary. The file is JSON and is read again when it changes, so that a key is revoked without a restart, and all of
them by taking the file away or emptying it; one that cannot be read as JSON changes nothing and is logged:

    {"keys": [{"tenant": "shop", "sha256": "<hex>", "rate_per_minute": 600, "concurrency": 64,
               "daily_quota": 100000, "catalogue_garments": 5000, "catalogue_bytes": 1073741824,
               "stored_bytes": 0, "high_priority": true}]}
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.errors import InvalidRequest, Unauthorized
from service.gateway.http.peers import client_name
from service.jobs.schemas import Limits
from service.settings import Settings, SettingsError

log = logging.getLogger("changeroom.gateway")

ANONYMOUS = "anonymous"
PREFIX = "cr_"
RECHECK_S = 2.0

_SHAPE = re.compile(r"^cr_[A-Za-z0-9_-]{43}$", re.ASCII)


def _not_anonymous(tenant: str) -> str:
    """The name stands for everybody without a key, whose jobs a tenant of this name would share."""
    if tenant == ANONYMOUS:
        raise ValueError(f"no key can be for {ANONYMOUS!r}: that is everybody without a key")
    return tenant


class KeyEntry(BaseModel):
    """One key at rest; limits left out are the service's own, high priority left out is not allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Annotated[str, AfterValidator(_not_anonymous)] = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate_per_minute: int | None = Field(None, ge=0)
    concurrency: int | None = Field(None, ge=0)
    daily_quota: int | None = Field(None, ge=0)
    catalogue_garments: int | None = Field(None, ge=0)
    catalogue_bytes: int | None = Field(None, ge=0)
    stored_bytes: int | None = Field(None, ge=0)
    high_priority: bool = False


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


def new_key(tenant: str) -> tuple[str, KeyEntry]:
    """A fresh key, to be shown once, and the entry to keep."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, KeyEntry(tenant=tenant, sha256=digest(key))


def digest(key: str) -> str:
    """Hex SHA-256 of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who asks, from where (an IPv6 /64 as one), and what that one may use."""

    tenant: str
    limits: Limits
    high_priority: bool
    address: str = ""


class KeyRing:
    """The known keys. `caller` is what every request goes through."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when the file is missing or not of its shape."""
        self._path: Path | None = settings.api_keys_file
        self._required = settings.keys_required
        self._limits = Limits(
            rate_per_minute=settings.rate_per_minute,
            concurrency=settings.concurrency_per_key,
            daily_quota=settings.daily_quota,
            catalogue_garments=settings.catalogue_garments,
            catalogue_bytes=settings.catalogue_bytes,
            stored_bytes=settings.stored_bytes_per_key,
        )
        self._entries: tuple[KeyEntry, ...] = ()
        self._stamp: tuple[int, int, int, int] | None = None
        self._checked = 0.0
        if self._path is not None:
            self._load(self._path)
        elif self._required:
            raise SettingsError("CHANGEROOM_API_KEYS_FILE: needed because CHANGEROOM_AUTH_REQUIRED is set")

    def identify(self, request: Request) -> KeyEntry | None:
        """The key a request carries, or None for an anonymous one where that is allowed.

        Raises Unauthorized for a missing (when required), malformed or unknown key.
        """
        if self._path is None:
            return None
        self._refresh(self._path)
        given = presented(request)
        if given is None:
            if self._required:
                raise Unauthorized("Send your key as 'Authorization: Bearer cr_...'.", code="missing-key")
            return None
        if not _SHAPE.match(given):
            raise Unauthorized(
                "The key is not of the form cr_ and 43 characters; copy it again in full.",
                code="malformed-key",
            )
        wanted = digest(given)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, wanted):
                found = entry
        if found is None:
            raise Unauthorized("This key is not known here; it may have been revoked.", code="unknown-key")
        return found

    def caller(self, request: Request) -> Caller:
        """The tenant behind a request and what it may do: the key's own limits where set. Raises Unauthorized.

        High priority is for keys that have it; where keys are not required, it is for anyone.
        """
        entry = self.identify(request)
        if entry is None:
            return Caller(ANONYMOUS, self._limits, high_priority=True, address=_address(request))
        given = entry.model_dump(include=set(Limits.model_fields), exclude_none=True)
        high_priority = entry.high_priority or not self._required
        limits = self._limits.model_copy(update=given)
        return Caller(entry.tenant, limits, high_priority, address=_address(request))

    def _refresh(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._checked < RECHECK_S:
            return
        self._checked = now
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            self._revoke_all(path)
            return
        except OSError as error:
            log.error("key file not looked at, the keys read before stay", extra={"reason": error.strerror})
            return
        if _stamp(stat) != self._stamp:
            if stat.st_size == 0:
                self._revoke_all(path)
                return
            try:
                self._load(path)
            except SettingsError as error:
                log.error("key file not reloaded, the keys read before stay", extra={"reason": str(error)})

    def _revoke_all(self, path: Path) -> None:
        """Nobody vouches for the keys any more: they end, until the file is back."""
        if self._entries:
            log.error("the key file is gone or empty, no key is known until it is back", extra={"file": str(path)})
        self._entries, self._stamp = (), None

    def _load(self, path: Path) -> None:
        try:
            stat = path.stat()
            entries = KeyFile.model_validate_json(path.read_bytes()).keys
        except OSError as error:
            raise SettingsError(f"CHANGEROOM_API_KEYS_FILE: {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise SettingsError(f"CHANGEROOM_API_KEYS_FILE: {path}: {where}: {first['msg']}") from error
        self._entries = entries
        self._stamp = _stamp(stat)
        self._checked = time.monotonic()


def _stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What changes with the file: a restored one of the same size and time is another one."""
    return stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size


def presented(request: Request) -> str | None:
    """The key of `Authorization: Bearer` or `X-API-Key`, or None. Raises InvalidRequest for two that differ."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    bearer = value.strip() if scheme.lower() == "bearer" else ""
    other = request.headers.get("x-api-key", "")
    if bearer and other and bearer != other:
        raise InvalidRequest(
            "Authorization and X-API-Key hold two keys; send one.", code="invalid-header", pointer="X-Api-Key"
        )
    return bearer or other or None


def _address(request: Request) -> str:
    try:
        return client_name(ip_address(request.client.host)) if request.client else ""
    except ValueError:  # a unix socket
        return ""
