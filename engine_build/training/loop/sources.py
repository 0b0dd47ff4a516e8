"""What a stage learns from: one source, a mixture of two, several streams in turn; shards in the place of any."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from engine_build.training.data.reading import Shards
from engine_build.training.data.sample import Sample, Source, Stream, Tokens
from engine_build.training.data.source import ShardSource
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.start_from import NetworkParts


@dataclass(frozen=True)
class Mixture:
    """Two sources: the second for a share of the numbers."""

    first: Source
    second: Source
    share: float

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples in the order of their numbers."""
        second = [random.Random(f"mixture/{n}").random() < self.share for n in numbers]
        drawn = {}
        for source, wanted in ((self.first, False), (self.second, True)):
            chosen = [n for n, is_second in zip(numbers, second, strict=True) if is_second == wanted]
            if chosen:
                drawn |= dict(zip(chosen, source.draw(chosen), strict=True))
        return [drawn[n] for n in numbers]


@dataclass(frozen=True)
class InTurn:
    """Streams one after another: `streams[i]` from step `begins[i]` on."""

    streams: tuple[Stream, ...]
    begins: tuple[int, ...]

    def batch(self, step: int) -> list[Tokens]:
        return self.streams[max(i for i, begin in enumerate(self.begins) if begin <= step)].batch(step)


@dataclass(frozen=True)
class OnDevice:
    """A source that draws on an accelerator: the world is drawn where torch makes its tensors."""

    source: Source
    device: torch.device

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        with self.device:
            return self.source.draw(numbers)


def on_device(source: Source, device: torch.device) -> Source:
    """The source drawing on `device`; shards are read on the CPU, as is everything on a CPU."""
    return source if device.type == "cpu" or isinstance(source, ShardSource) else OnDevice(source, device)


def chosen(c: StageConfig, drawn: Source, height: int | None = None, shot: int | None = None) -> Source:
    """Shards where the stage's table names any, else what is drawn."""
    return ShardSource(Shards(c.data, c.data_seed), height or c.height, shot or c.shot) if c.data else drawn


def fitted(source: Source, parts: NetworkParts) -> Source:
    """The source with pictures in whole tokens."""
    return replace(source, multiple=parts.encoder.token_pixels) if isinstance(source, ShardSource) else source
