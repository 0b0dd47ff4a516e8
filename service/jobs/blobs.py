"""Picture bytes: a local folder by default, any S3, Google or Azure bucket by URL, memory for tests.

A blob's key is `<kind>/<hour>/<sha256>-<nonce>`. The hash names the content (caches use it,
`content_hash`); the nonce makes every upload its own blob, so erasing one job's inputs never takes the
same picture from another job; the hour lets the sweep look only where something can have run out.
Kinds: `input`, `result` and `key` (of a job's words) have a TTL, `garment` lives as long as its record in the
catalogue.

obstore's blocking calls run on threads of ours: its own awaitables are finished by a runtime that can
outlive the interpreter and abort the process at exit.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from service.errors import Damaged, Gone, StoreUnavailable
from service.jobs.blocking import BlockingCalls
from service.jobs.picture_folder import PictureFolder
from service.jobs.schemas import JobRecord
from service.retry_after import SHORTLY
from service.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

log = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["input", "result", "garment", "key"]

BLOB_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S, PROBE_FRESH_S = 1.5, 0.5
AT_ONCE = 8
HOUR_S = 3600
SWEEP_PAGE = 500
# Plain http only ever happens when the operator names such an endpoint.
CLIENT: ClientConfig = {"timeout": "4s", "connect_timeout": "2s", "allow_http": True}
RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=8)}


class BlobStore:
    """Blobs by key, and the signatures of addresses that show one."""

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        *,
        folder: PictureFolder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is where a local `store` keeps its files."""
        self._store = store
        self._folder = folder
        self._ttl_s = {"input": settings.input_ttl_s, "result": settings.result_ttl_s, "key": settings.key_ttl_s}
        self._key = settings.signing_key()
        self._clock = clock
        self._calls = BlockingCalls(AT_ONCE, "blobs")
        self._probes = BlockingCalls(1, "blobs-probe")
        self._probed: tuple[float, bool] | None = None

    @classmethod
    def open(cls, settings: Settings) -> BlobStore:
        """The store at `settings.blob_address`; a local folder is made when absent.

        Raises StoreUnavailable when the address cannot be used.
        """
        address = settings.blob_address
        folder: PictureFolder | None = None
        try:
            if address.startswith("file://"):
                root = Path(address.removeprefix("file://"))
                folder = PictureFolder(root, settings.disk_reserve_bytes)
                store: ObjectStore = LocalStore(root, automatic_cleanup=True)
            elif address.startswith("memory://"):
                store = MemoryStore()
            else:
                store = from_url(address, client_options=CLIENT, retry_config=RETRIES)
        except (BaseError, OSError, ValueError) as error:
            scheme = address.split(":", 1)[0]
            raise StoreUnavailable(f"The blob store ({scheme}) cannot be opened: {type(error).__name__}.") from error
        return cls(store, settings, folder=folder)

    def check_room(self, kind: Kind) -> None:
        """Raises StoreUnavailable (storage-full) when no picture of this kind is taken in just now."""
        if self._folder is not None:
            self._folder.check_room(kind)

    async def put(self, data: bytes, *, kind: Kind, content_type: str) -> str:
        """Write a blob; returns its key. Raises StoreUnavailable."""
        self.check_room(kind)
        hour = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%d%H")
        # Local folders and memory keep no attributes; records carry the content type anyway.
        attributes = None if isinstance(self._store, LocalStore) else {"Content-Type": content_type}

        def written() -> str:
            key = f"{kind}/{hour}/{hashlib.sha256(data).hexdigest()}-{secrets.token_hex(8)}"
            obstore.put(self._store, key, data, attributes=attributes)
            if self._folder is not None:
                self._folder.keep_private(key)
            return key

        try:
            return await self._call(written)
        except FileNotFoundError as error:
            raise StoreUnavailable("The picture store has no such bucket or folder.") from error

    async def get(self, key: str, timeout_s: float = BLOB_TIMEOUT_S) -> bytes:
        """The bytes of a blob. Raises Gone when it was erased, Damaged when they have changed, StoreUnavailable."""
        path = _checked(key)
        try:
            data, digest = await self._call(partial(self._read, path), timeout_s)
        except FileNotFoundError:
            raise Gone("This picture has been erased.") from None
        if digest != content_hash(path):
            log.error("a stored picture is damaged", extra={"blob": path})
            raise Damaged("This picture was damaged in storage.")
        return data

    def _read(self, path: str) -> tuple[bytes, str]:
        data = obstore.get(self._store, path).bytes().to_bytes()
        return data, hashlib.sha256(data).hexdigest()

    async def answers(self) -> bool:
        """Whether the store as a whole answers, as of at most PROBE_FRESH_S ago: it knows of a blob that was never
        put that it is not there.
        """
        if self._probed is None or time.monotonic() - self._probed[0] >= PROBE_FRESH_S:
            path = f"input/0/{secrets.token_hex(8)}"
            try:
                await self._probes.run(partial(obstore.head, self._store, path), PROBE_TIMEOUT_S)
                answered = True
            except FileNotFoundError:
                answered = True
            except (BaseError, OSError):
                answered = False
            self._probed = (time.monotonic(), answered)
        return self._probed[1]

    async def delete(self, *keys: str) -> None:
        """Erase blobs at once; those that are already gone are no error. Raises StoreUnavailable."""
        for path in map(_checked, keys):
            with suppress(FileNotFoundError):
                await self._call(partial(obstore.delete, self._store, path))

    async def sweep_expired(self) -> int:
        """Erase every input, result and key older than its TTL; returns how many. Raises StoreUnavailable."""
        erased = 0
        for kind, ttl_s in self._ttl_s.items():
            due = await self._call(partial(self._due, kind, self._clock() - ttl_s))
            for start in range(0, len(due), SWEEP_PAGE):
                await self.delete(*due[start : start + SWEEP_PAGE])
            erased += len(due)
        return erased

    def _due(self, kind: str, cutoff: float) -> list[str]:
        due: list[str] = []
        for prefix in obstore.list_with_delimiter(self._store, prefix=kind)["common_prefixes"]:
            hour = datetime.strptime(prefix.rsplit("/", 1)[-1], "%Y%m%d%H").replace(tzinfo=UTC).timestamp()
            if hour > cutoff:
                continue
            whole_hour = hour + HOUR_S <= cutoff
            for page in obstore.list(self._store, prefix=prefix):
                due += [meta["path"] for meta in page if whole_hour or meta["last_modified"].timestamp() <= cutoff]
        return due

    async def _call(self, operation: Callable[[], T], timeout_s: float = BLOB_TIMEOUT_S) -> T:
        """Run a blocking operation on a thread; FileNotFoundError passes, anything else is
        StoreUnavailable.
        """
        try:
            return await self._calls.run(operation, timeout_s)
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise StoreUnavailable(
                f"The picture store does not answer ({type(error).__name__}); try again.", retry_after=SHORTLY
            ) from error

    def sign(self, job_id: str, expires_at: float) -> str:
        """A token that lets its bearer see the result of `job_id` until `expires_at` (Unix seconds)."""
        return f"{int(expires_at)}.{self._mac(job_id, int(expires_at))}"

    def verify(self, job_id: str, token: str) -> bool:
        """Whether `token` was signed here for this job and has not run out; compared in constant time."""
        expires, _, mac = token.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and mac.isascii()):
            return False
        genuine = hmac.compare_digest(mac, self._mac(job_id, int(expires)))
        return genuine and int(expires) > self._clock()

    def _mac(self, job_id: str, expires: int) -> str:
        digest = hmac.new(self._key, f"result\x00{job_id}\x00{expires}".encode(), hashlib.sha256).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


def content_hash(key: str) -> str:
    """The sha256 (hex) of the bytes behind a key."""
    return key.rsplit("/", 1)[-1].partition("-")[0]


def blobs_of(record: JobRecord) -> list[str]:
    """The blobs that belong to a job alone: the key of its words, its person, its uploaded garments, its result; not
    catalogue ones.
    """
    mine = [] if record.spec.sealed is None else [record.spec.sealed.key]
    mine += [record.spec.person, *(garment.blob for garment in record.spec.garments if garment.sku is None)]
    if record.result is not None:
        mine.append(record.result.blob)
    return mine


def _checked(key: str) -> str:
    kind, _, rest = key.partition("/")
    if kind not in ("input", "result", "garment", "key") or ".." in rest or not rest:
        raise Gone("This picture has been erased.")
    return key
