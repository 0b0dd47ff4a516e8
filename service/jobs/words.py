"""The words of a customer: sealed with a key of the job's own before the store sees them, open while that key exists.

What a store is given stays in its append-only log until the log is rewritten, whatever was deleted meanwhile. So the
prompt, the instruction, the metadata, the webhook's address and the picture address it will be given, the layers and
the request's name go there compressed and encrypted (AES-256-GCM, bound to the job's id), and the key never goes there:
it lies as a blob of the kind `key` beside the job's pictures. Erasing that blob, by DELETE or when its time is over,
makes every copy of the words unreadable at once. Neither the store nor the bucket can be read without the other.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import Damaged
from service.jobs.blobs import BLOB_TIMEOUT_S, BlobStore
from service.jobs.schemas import JobRecord, JobSpec, SealedWords

KEY_BYTES, NONCE_BYTES = 32, 12
KEYS_KEPT, KEYS_KEPT_S = 4096, 600.0


@dataclass(frozen=True)
class JobKey:
    """The key of one job: the blob it lies in, and its 32 bytes."""

    blob: str
    secret: bytes


class Words:
    """Seals the words of jobs and opens them again; keys lately used are remembered for ten minutes."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._keys: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def new_key(self) -> JobKey:
        """A key for one job, written beside its pictures. Raises StoreUnavailable."""
        secret = secrets.token_bytes(KEY_BYTES)
        blob = await self._blobs.put(secret, kind="key", content_type="application/octet-stream")
        self._remember(blob, secret)
        return JobKey(blob, secret)

    async def open(self, spec: JobSpec, timeout_s: float = BLOB_TIMEOUT_S) -> JobSpec:
        """The job with its words. Raises Gone once its key was erased, Damaged, StoreUnavailable."""
        if spec.sealed is None or spec.instruction:
            return spec
        blob = spec.sealed.key
        secret = self._remembered(blob)
        if secret is None:
            secret = await self._blobs.get(blob, timeout_s)
            self._remember(blob, secret)
        return unsealed(spec, secret)

    async def open_record(self, record: JobRecord) -> JobRecord:
        """The same for a whole record."""
        return record.model_copy(update={"spec": await self.open(record.spec)})

    def forget(self, record: JobRecord) -> None:
        """Keep nothing of an erased job in this process."""
        if record.spec.sealed is not None:
            self._keys.pop(record.spec.sealed.key, None)

    def _remembered(self, blob: str) -> bytes | None:
        self.drop_old()
        known = self._keys.get(blob)
        return None if known is None else known[1]

    def _remember(self, blob: str, secret: bytes) -> None:
        self._keys.pop(blob, None)
        self._keys[blob] = (time.monotonic() + KEYS_KEPT_S, secret)
        while len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)

    def drop_old(self) -> None:
        """Forget the keys whose ten minutes are over."""
        now = time.monotonic()
        while self._keys and next(iter(self._keys.values()))[0] <= now:
            self._keys.popitem(last=False)


def sealed(spec: JobSpec, key: JobKey) -> JobSpec:
    """The job as the store may see it: without its words but for their sealed text."""
    words = {
        "prompt": spec.prompt,
        "instruction": spec.instruction,
        "metadata": spec.metadata,
        "webhook_url": spec.webhook_url,
        "webhook_output": spec.webhook_output,
        "layers": [garment.layer for garment in spec.garments],
        "request_id": spec.request_id,
    }
    plain = zlib.compress(json.dumps(words, ensure_ascii=False, separators=(",", ":")).encode(), 9)
    nonce = secrets.token_bytes(NONCE_BYTES)
    text = base64.b64encode(nonce + AESGCM(key.secret).encrypt(nonce, plain, spec.id.encode())).decode()
    return spec.model_copy(
        update={
            "prompt": "",
            "instruction": "",
            "metadata": {},
            "webhook_url": None,
            "webhook_output": None,
            "request_id": "",
            "garments": tuple(garment.model_copy(update={"layer": None}) for garment in spec.garments),
            "sealed": SealedWords(
                key=key.blob,
                text=text,
                personal=bool(spec.prompt or any(garment.layer for garment in spec.garments)),
                webhook=spec.webhook_url is not None,
            ),
        }
    )


def unsealed(spec: JobSpec, secret: bytes) -> JobSpec:
    """What `sealed` was given. Raises Damaged when the text was not sealed with this key for this job."""
    if spec.sealed is None:
        return spec
    data = base64.b64decode(spec.sealed.text)
    try:
        plain = AESGCM(secret).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], spec.id.encode())
    except (InvalidTag, ValueError):
        raise Damaged("The words of this job were damaged in storage.") from None
    words = json.loads(zlib.decompress(plain))
    layers = words.pop("layers")
    garments = tuple(
        garment.model_copy(update={"layer": layer}) for garment, layer in zip(spec.garments, layers, strict=True)
    )
    return spec.model_copy(update={**words, "garments": garments})
