"""Adapters on the device: a fixed number of places, the least recently used of which make room.

All places lie in one buffer that never moves, so CUDA graphs read whatever adapters lie in it. The bank puts nothing
beside a model's weights before the first adapter is needed; from then on a request without adapters runs the same
kernels as before. Copies into a place are ordered behind the work that still reads it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from engine_build.errors import EngineError, RequestError
from engine_build.model.adapted_linear import AdaptedLinear, Adapting, Stream
from engine_build.model.adapters import RANK, Adapter, Mixture, PageLayout
from engine_build.model.mmdit import MMDiT
from kernels.fp8 import Fp8Linear
from kernels.routes import Pairs

MOST_PLACES = 256  # more than a forward can use; small models would fill gigabytes
Item = TypeVar("Item")


class AdapterBank:
    """The places of one model's adapters, within `max_bytes`. Not thread-safe, like the pipeline it belongs to.

    `hits`, `loads` and `evictions` count adapters, `loaded_bytes` what was copied to the device.
    """

    def __init__(self, model: MMDiT, max_bytes: int) -> None:
        self.model = model
        self.layout = PageLayout.of(model)
        self.page_bytes = self.layout.elements * model.dtype.itemsize
        self.places = places_within(max_bytes, self.page_bytes)
        self.hits = self.loads = self.evictions = self.loaded_bytes = 0
        self._adapting: Adapting | None = None
        self._storage: Tensor | None = None
        self._resident: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._free = list(range(self.places))

    @property
    def bytes(self) -> int:
        """Held by resident adapters."""
        return (self.places - len(self._free)) * self.page_bytes

    def read(self, path: Path) -> Adapter:
        """A LoRA file for this bank; may be called from any thread, since it leaves the device alone.

        Raises CheckpointError as `PageLayout.read`, RequestError as `check`.
        """
        adapter = self.layout.read(path, self.model.dtype)
        self.check([adapter])
        return adapter

    def check(self, adapters: Iterable[Adapter]) -> None:
        """Raises RequestError when adapters of one request do not fit the bank together."""
        needed = sum(_pages({adapter.version: adapter for adapter in adapters}))
        if needed > self.places:
            raise RequestError(
                f"these adapters need {needed} places of rank {RANK}, the engine has {self.places}: "
                "use fewer or smaller ones, or start it with more adapter_bytes"
            )

    def groups(self, items: Iterable[Item], mixture: Callable[[Item], Mixture]) -> list[list[Item]]:
        """Items in groups whose adapters fit the bank together, each in the first group that has room for it."""
        groups: list[tuple[list[Item], dict[str, Adapter]]] = []
        for item in items:
            wanted = {adapter.version: adapter for adapter, _ in mixture(item)}
            for group, held in groups:
                if sum(_pages(held | wanted)) <= self.places:
                    group.append(item)
                    held |= wanted
                    break
            else:
                groups.append(([item], wanted))
        return [group for group, _ in groups]

    def hold(self, mixtures: Sequence[Mixture], events: Sequence[Counter[tuple[str, str]]]) -> list[Pairs]:
        """Makes all adapters of the mixtures resident, and tells the (place, scale) that each mixture is now.

        Each mixture's loads are counted in its events. Raises EngineError when they do not fit together, and what
        torch raises where there is no memory for the bank.
        """
        wanted = {adapter.version: adapter for mixture in mixtures for adapter, _ in mixture}
        if not wanted:
            return [() for _ in mixtures]
        if sum(_pages(wanted)) > self.places:
            raise EngineError(f"{len(wanted)} adapters do not fit {self.places} places together")
        storage = self._installed()
        for version in wanted:
            if version in self._resident:
                self._resident.move_to_end(version)
        for mixture, counted in zip(mixtures, events, strict=True):
            for adapter, _ in mixture:
                if adapter.version not in self._resident:
                    counted.update(self._load(adapter, storage))
        return [
            tuple((place, scale) for adapter, scale in mixture for place in self._resident[adapter.version])
            for mixture in mixtures
        ]

    def count_hits(self, mixture: Mixture, events: Counter[tuple[str, str]]) -> None:
        """Counts the adapters of a new request that are resident already."""
        hits = sum(adapter.version in self._resident for adapter, _ in mixture)
        self.hits += hits
        if hits:
            events["adapter", "hit"] += hits

    def _load(self, adapter: Adapter, storage: Tensor) -> dict[tuple[str, str], int]:
        """Puts an adapter in places of its own; returns what to count. What was just asked for is newest, and stays."""
        if storage.device.type == "cuda" and not adapter.pages.is_pinned():
            adapter.pages = adapter.pages.pin_memory()  # not when it is read: another thread may be capturing a graph
        evicted = 0
        while len(self._free) < len(adapter.pages):
            _, places = self._resident.popitem(last=False)
            self._free.extend(places)
            evicted += 1
        places = tuple(self._free.pop() for _ in adapter.pages)
        for place, page in zip(places, adapter.pages, strict=True):
            storage[place].copy_(page, non_blocking=True)
            cast("Adapting", self._adapting).changed[place] = adapter.layers
        self._resident[adapter.version] = places
        self.loads += 1
        self.evictions += evicted
        self.loaded_bytes += adapter.bytes
        counted = {("adapter", "load"): 1, ("adapter", "loaded_bytes"): adapter.bytes}
        return counted | ({("adapter", "eviction"): evicted} if evicted else {})

    def _installed(self) -> Tensor:
        """The places; the first time they are made and put beside every adaptable linear."""
        if self._storage is None:
            with torch.inference_mode(False):
                made = torch.zeros(self.places, self.layout.elements, dtype=self.model.dtype, device=self.model.device)
            self._adapting = self.model.adapting = Adapting(self.model.kernels)
            for layer in self.layout.sizes:
                parent, _, child = layer.rpartition(".")
                base = cast("nn.Linear | Fp8Linear", self.model.get_submodule(layer))
                down, up = self.layout.parts(made, layer)
                adapted = AdaptedLinear(layer, base, down, up, self._stream_of(layer), self._adapting)
                setattr(self.model.get_submodule(parent), child, adapted.train(base.training))
            self._storage = made
        return self._storage

    def _stream_of(self, layer: str) -> Stream:
        """Whose tokens a linear reads. The last block makes only the target's; its keys and values are of all."""
        if layer.startswith("single_transformer_blocks."):
            last = f"single_transformer_blocks.{self.model.config.num_single_layers - 1}.attn.to_out"
            return "target" if layer == last else "joint"
        _, _, leaf = layer.split(".", 2)
        return "text" if leaf.startswith(("ff_context.", "attn.add_", "attn.to_add_")) else "image"


def places_within(max_bytes: int, page_bytes: int) -> int:
    """How many pages of a size a bound in bytes holds."""
    return min(MOST_PLACES, max_bytes // page_bytes)


def _pages(adapters: dict[str, Adapter]) -> Iterator[int]:
    return (len(adapter.pages) for adapter in adapters.values())
