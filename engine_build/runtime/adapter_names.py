"""The adapters that requests can name: files registered under names, each version told by its content.

A name may be given another file at any time; a request keeps the version that it began with.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path

from engine_build.engine import AdapterInfo, AdapterUse
from engine_build.errors import BackendError, RequestError
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.adapters import Adapter, Mixture


class AdapterNames:
    """Thread-safe; registering touches no device and waits for no batch. Without a bank every file is refused."""

    def __init__(self, bank: AdapterBank | None, backend: str) -> None:
        self.bank = bank
        self.backend = backend
        self._adapters: dict[str, Adapter] = {}
        self._lock = threading.Lock()

    def register(self, name: str, path: Path) -> AdapterInfo:
        """See `Engine.register_adapter`."""
        if self.bank is None:
            raise BackendError(
                f"the {self.backend} backend takes no adapters: bake a LoRA in at start with loras, "
                "or use the torch or triton backend with adapter_bytes"
            )
        if not name:
            raise RequestError("an adapter needs a name")
        adapter = self.bank.read(path)
        with self._lock:
            known = self._adapters.get(name)
            if known is None or known.version != adapter.version:
                self._adapters[name] = adapter
        return AdapterInfo(name, adapter.version, adapter.bytes)

    def remove(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        with self._lock:
            if self._adapters.pop(name, None) is None:
                raise RequestError(f"there is no adapter named {name!r}")

    def listed(self) -> tuple[AdapterInfo, ...]:
        """What is registered, by name."""
        with self._lock:
            return tuple(AdapterInfo(name, one.version, one.bytes) for name, one in sorted(self._adapters.items()))

    def resolve(self, asked: tuple[tuple[str, float], ...]) -> tuple[Mixture, tuple[AdapterUse, ...]]:
        """The adapters of a request, in the order of their versions, and what to tell of them, in the request's.

        Two names of one file count as that file with both scales; a scale of 0 is told but costs nothing. Raises
        RequestError for a name that is unknown or given twice, a scale that is not finite, and more than fits the bank.
        """
        if not asked:
            return (), ()
        scales: dict[Adapter, float] = {}
        used: list[AdapterUse] = []
        with self._lock:
            known = dict(self._adapters)
        for name, scale in asked:
            if name not in known:
                raise RequestError(
                    f"there is no adapter named {name!r}; there are: {', '.join(sorted(known)) or 'none'}"
                )
            if any(use.name == name for use in used):
                raise RequestError(f"adapter {name!r} is named twice: give it one scale")
            if not math.isfinite(scale):
                raise RequestError(f"the scale of adapter {name!r} must be finite, not {scale}")
            adapter = known[name]
            same = next((one for one in scales if one.version == adapter.version), adapter)
            scales[same] = scales.get(same, 0.0) + scale
            used.append(AdapterUse(name, adapter.version, scale))
        mixture = tuple(sorted(((one, s) for one, s in scales.items() if s), key=lambda pair: pair[0].version))
        if self.bank is not None:
            self.bank.check(adapter for adapter, _ in mixture)
        return mixture, tuple(used)
