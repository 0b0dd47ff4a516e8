"""Samples of many shards in an order that is a pure function of seed and number.

A position is one integer, counted over epochs: number n is place n % N of epoch n // N, and whoever knows n goes on
exactly where another stopped. Each epoch shuffles the shards, then the samples of every few neighbouring shards
among themselves, so that reading stays local however large the set is.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine_build.training.data.entry import Entry, ShardError
from engine_build.training.data.shards import Span, find_shards, read_entry, spans_of

MIXED = 8
"""Shards whose samples are shuffled among themselves."""


@dataclass(frozen=True)
class Epoch:
    """One epoch's shards in their order: groups of `MIXED`, and how many samples stand before each group."""

    groups: tuple[tuple[int, ...], ...]
    before: tuple[int, ...]


class Shards:
    """All samples of `patterns` (paths, folders, `data/*.tar`), by number. Raises ShardError for none."""

    def __init__(self, patterns: str | Sequence[str], seed: int = 0, shuffled: bool = True) -> None:
        self.paths: list[Path] = find_shards(patterns)
        self.seed, self.shuffled = seed, shuffled
        self._spans: list[list[Span]] = [spans_of(path) for path in self.paths]
        self.total = sum(map(len, self._spans))
        if self.total == 0:
            raise ShardError(f"the shards at {patterns} hold no samples")
        self._epoch = lru_cache(maxsize=2)(self._ordered)
        self._group = lru_cache(maxsize=4)(self._shuffled)

    def __len__(self) -> int:
        return self.total

    def place(self, number: int) -> tuple[Path, Span]:
        """Where the sample of a number lies; numbers count on through epochs."""
        epoch, place = divmod(number, self.total)
        order = self._epoch(epoch)
        row = bisect.bisect_right(order.before, place) - 1
        shard, index = self._group(epoch, row)[place - order.before[row]]
        return self.paths[shard], self._spans[shard][index]

    def entry(self, number: int) -> Entry:
        """The sample of a number. Raises ShardError."""
        return read_entry(*self.place(number))

    def spans(self) -> Iterator[tuple[Path, Span]]:
        """Every sample once, in the order of the files."""
        for path, spans in zip(self.paths, self._spans, strict=True):
            for span in spans:
                yield path, span

    def _ordered(self, epoch: int) -> Epoch:
        order = list(range(len(self.paths)))
        if self.shuffled:
            random.Random(f"shards/{self.seed}/{epoch}").shuffle(order)
        groups = tuple(tuple(order[i : i + MIXED]) for i in range(0, len(order), MIXED))
        sizes = [sum(len(self._spans[shard]) for shard in group) for group in groups]
        return Epoch(groups, (0, *(int(x) for x in np.cumsum(sizes)[:-1])))

    def _shuffled(self, epoch: int, row: int) -> list[tuple[int, int]]:
        rows = [(shard, i) for shard in self._epoch(epoch).groups[row] for i in range(len(self._spans[shard]))]
        if self.shuffled:
            random.Random(f"samples/{self.seed}/{epoch}/{row}").shuffle(rows)
        return rows
