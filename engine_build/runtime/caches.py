"""What the engine remembers between requests: text embeddings, latents, and keys and values of references.

One least-recently-used store, bounded in bytes, with its events counted. Keys name content
(`engine_build.cache_keys`), never slots or requests: a garment's K/V are kept at t = 0 and turned into whatever
slot the next request gives it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from engine_build.cache_keys import made_from
from engine_build.model.reference_kv import ReferenceKV

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """A thread-safe LRU of values whose sizes `size_of` tells, in bytes. `max_bytes` 0 keeps nothing."""

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._size_of = size_of
        self._entries: OrderedDict[Hashable, tuple[Value, int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Value | None:
        """The value, now the most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[0]

    def put(self, key: Hashable, value: Value) -> int:
        """Keeps the value unless it alone exceeds the bound; returns how many entries had to go."""
        size = self._size_of(value)
        with self._lock:
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self.bytes -= replaced[1]
            if size > self.max_bytes:
                return 0
            evicted = 0
            while self.bytes + size > self.max_bytes:
                _, (_, freed, _) = self._entries.popitem(last=False)
                self.bytes -= freed
                evicted += 1
            self._entries[key] = (value, size, time.monotonic())
            self.bytes += size
            self.evictions += evicted
            return evicted

    def clear(self) -> None:
        """Forgets every value; the counts stay."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def drop(self, unwanted: Callable[[Hashable], bool], *, older_than_s: float | None = None) -> int:
        """Forgets the values whose key is `unwanted` or that were put longer ago; returns how many."""
        with self._lock:
            since = float("-inf") if older_than_s is None else time.monotonic() - older_than_s
            doomed = [key for key, (_, _, put) in self._entries.items() if put < since or unwanted(key)]
            for key in doomed:
                self.bytes -= self._entries.pop(key)[1]
            return len(doomed)


@dataclass(frozen=True)
class Caches:
    """The three stores of one engine, named as in the metrics: text, latents, reference_kv."""

    text: ByteCache[Tensor]
    latents: ByteCache[Tensor]
    reference_kv: ByteCache[ReferenceKV]

    @classmethod
    def of(cls, *, text_bytes: int, latent_bytes: int, reference_bytes: int) -> Caches:
        return cls(
            ByteCache(text_bytes, _tensor_bytes),
            ByteCache(latent_bytes, _tensor_bytes),
            ByteCache(reference_bytes, lambda kv: kv.bytes),
        )

    def clear(self) -> None:
        for cache in (self.text, self.latents, self.reference_kv):
            cache.clear()

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        """See `Engine.forget`."""
        hashes = None if content is None else frozenset(content)
        for cache in (self.latents, self.reference_kv):
            cache.drop(lambda key: hashes is None or made_from(key, hashes), older_than_s=older_than_s)
        self.text.drop(lambda _: words, older_than_s=older_than_s)


def _tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
