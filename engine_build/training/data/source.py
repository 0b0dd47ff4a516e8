"""Shards as training reads them: a `Source` by number, and the stream of encoded batches over it.

Sizes follow the engine's: the target keeps its photo's aspect at the area of a picture `height` high and 3/4 as
wide, garments theirs at the area of `shot` x `shot`, sides multiples of a token's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from engine_build.references import fit_cover, target_size
from engine_build.training.data.entry import Entry, ShardError
from engine_build.training.data.pictures import BrokenPicture, opened, read_map, tensor_of
from engine_build.training.data.reading import Shards
from engine_build.training.latents import Encoder
from engine_build.training.sample import PERSON, Sample, Tokens
from engine_build.training.stream import TokenStream


@dataclass(frozen=True)
class ShardSource:
    """Samples of shards by number, numbers counting on through epochs. Raises ShardError for a bad sample.

    `multiple` is the side of a token in pixels; pictures are decoded by `threads` threads.
    """

    shards: Shards
    height: int = 64
    shot: int = 32
    multiple: int = 8
    threads: int = 1

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """One sample a number."""
        if self.threads <= 1:
            return [self.sample(number) for number in numbers]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.sample, numbers))

    def sample(self, number: int) -> Sample:
        """The sample of one number, decoded and fitted."""
        path, span = self.shards.place(number)
        entry = self.shards.entry(number)
        try:
            return self._fitted(entry)
        except BrokenPicture as error:
            raise ShardError(f"{path}: {span.key} holds a broken picture: {error}") from error

    def _fitted(self, entry: Entry) -> Sample:
        target = opened(entry.target.data)
        size = target_size(target.size, (self.height * 3 // 4, self.height), self.multiple)
        whole = set(entry.facts.get("pictures", ()))
        shown = [
            self._reference(opened(one.picture.data), size, whole=i in whole) for i, one in enumerate(entry.references)
        ]
        edited = entry.maps.get("edited")
        return Sample(
            references=(tensor_of(fit_cover(opened(entry.person.data), size)), *shown),
            categories=(PERSON, *(one.category for one in entry.references)),
            target=tensor_of(fit_cover(target, size)),
            instruction=entry.instruction,
            edited=None if edited is None else tensor_of(fit_cover(read_map(edited), size)),
        )

    def _reference(self, image: Image.Image, size: tuple[int, int], whole: bool) -> Tensor:
        fitted = size if whole else target_size(image.size, (self.shot, self.shot), self.multiple)
        return tensor_of(fit_cover(image, fitted))


@dataclass
class ShardStream:
    """Batches of encoded samples for every step, as the stages take them; all of `TokenStream` over shards.

    Positions need no saving: a batch is a pure function of its step, the seed and this process's rank.
    """

    patterns: str | Sequence[str] | Sequence[Path]
    encoder: Encoder
    height: int = 64
    shot: int = 32
    batch_size: int = 8
    passes: int = 1
    chunk: int = 48
    seed: int = 0
    rank: int = 0
    world: int = 1
    threads: int = 1
    _stream: TokenStream = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = self.patterns if isinstance(self.patterns, str) else [str(one) for one in self.patterns]
        shards = Shards(names, self.seed)
        source = ShardSource(shards, self.height, self.shot, self.encoder.token_pixels, self.threads)
        self._stream = TokenStream(
            source, self.encoder, self.batch_size, self.passes, self.chunk, rank=self.rank, world=self.world
        )

    def batch(self, step: int) -> list[Tokens]:
        """This process's samples of the step's batch."""
        return self._stream.batch(step)
