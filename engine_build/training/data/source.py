"""Shards as training reads them: a `Source` of samples by number.

Sizes follow the engine's: the target keeps its photo's aspect at the area of a picture `height` high and 3/4 as
wide, garments theirs at the area of `shot` x `shot`, sides multiples of a token's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from engine_build.request.reference_pictures import fit_cover, target_size
from engine_build.training.data.entry import Entry, ShardError
from engine_build.training.data.pictures import BrokenPicture, opened, read_map, tensor_of
from engine_build.training.data.reading import Shards
from engine_build.training.data.sample import PERSON, Sample


@dataclass(frozen=True)
class ShardSource:
    """Samples of shards by number, numbers counting on through epochs. Raises ShardError for a bad sample.

    `multiple` is the side of a token in pixels; pictures are decoded by `threads` threads.
    """

    shards: Shards
    height: int = 64
    shot: int = 32
    multiple: int = 8
    threads: int = 4

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
