"""Batches of encoded samples from a source, a pure function of the step and of a process's place among others.

A chunk of samples is drawn and encoded once and visited `passes` times, in other company and with other noise,
which divides the cost of drawing and of the autoencoder. Of several processes each draws only what it trains on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine_build.errors import RequestError
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.sample import Source, Tokens, encode


@dataclass
class TokenStream:
    """Batches of `batch` samples over all processes; `chunk` is a multiple of `batch`.

    Raises RequestError when the numbers do not divide.
    """

    source: Source
    encoder: Encoder
    batch_size: int = 8
    passes: int = 3
    chunk: int = 48
    first_seed: int = 0
    rank: int = 0
    world: int = 1
    _held: tuple[int, dict[int, Tokens]] = field(default=(-1, {}))

    def __post_init__(self) -> None:
        if self.chunk % self.batch_size:
            raise RequestError(f"a chunk of {self.chunk} samples does not divide into batches of {self.batch_size}")
        if self.batch_size % self.world:
            raise RequestError(f"a batch of {self.batch_size} samples does not divide among {self.world} processes")

    def batch(self, step: int) -> list[Tokens]:
        """This process's samples of the step's batch: every `world`-th, from `rank`."""
        visits = self.chunk // self.batch_size
        number, visit = divmod(step, visits * self.passes)
        if self._held[0] != number:
            wanted = sorted({row for v in range(visits * self.passes) for row in self._rows(number, v)})
            drawn = self.source.draw([self.first_seed + number * self.chunk + row for row in wanted])
            self._held = (number, dict(zip(wanted, encode(self.encoder, drawn), strict=True)))
        return [self._held[1][row] for row in self._rows(number, visit)]

    def _rows(self, number: int, visit: int) -> list[int]:
        around, place = divmod(visit, self.chunk // self.batch_size)
        order = list(range(self.chunk))
        random.Random(f"{number}/{around}").shuffle(order)
        return order[place * self.batch_size : (place + 1) * self.batch_size][self.rank :: self.world]
