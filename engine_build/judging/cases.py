"""The questions of a run: which are asked of which samples, and the key under which each answer is kept."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from engine_build.judging.prompts import PAIR, PLACE, WORN
from engine_build.judging.samples import Sample
from engine_build.judging.scores import PLAIN, SHAM

A_FIRST, B_FIRST = "a first", "b first"
SHAM_QUALITY = 85
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
"""What Pillow raises for a picture that is none."""


@dataclass(frozen=True)
class Case:
    """One answer that is wanted."""

    sample: Sample
    call: str
    variant: str
    repeat: int = 0

    @property
    def name(self) -> tuple[str, str, str, int]:
        return self.sample.id, self.call, self.variant, self.repeat


@dataclass(frozen=True)
class Shares:
    """How much is asked again to tell how far the judge can be trusted: shares of samples, from 0 to 1.

    Of the share `again` everything is asked `repeats` times more; of the share `sham` once about the same result
    encoded as JPEG, which a judge of pictures should score the same.
    """

    again: float = 0.0
    repeats: int = 1
    sham: float = 0.0


@dataclass(frozen=True)
class Shown:
    """The encoded pictures of a case, as files hold them."""

    person: bytes
    references: tuple[bytes, ...]
    results: tuple[bytes, ...]

    def of(self, call: str) -> tuple[bytes, ...]:
        """Those that a question shows, in its order."""
        return (self.person, *(() if call == PLACE else self.references), *self.results)

    def opened(self) -> tuple[Image.Image, list[Image.Image], list[Image.Image]]:
        """Person, references and results; pixels are read when they are needed. Raises UNREADABLE."""
        files = (self.person, *self.references, *self.results)
        person, *others = (_opened(data) for data in files)
        return person, others[: len(self.references)], others[len(self.references) :]


def scoring(samples: Sequence[Sample], shares: Shares) -> Iterator[Case]:
    """Both questions of every sample, then of the shares; the same samples are chosen every time."""
    again, sham = _chosen(samples, shares.again, "again"), _chosen(samples, shares.sham, "sham")
    for sample in samples:
        yield from (Case(sample, call, PLAIN) for call in (WORN, PLACE))
    for sample in samples:
        if sample.id in again:
            yield from (Case(sample, call, PLAIN, 1 + i) for i in range(shares.repeats) for call in (WORN, PLACE))
        if sample.id in sham:
            yield from (Case(sample, call, SHAM) for call in (WORN, PLACE))


def pairing(samples: Sequence[Sample]) -> Iterator[Case]:
    """Every sample in both orders."""
    for sample in samples:
        yield from (Case(sample, PAIR, order) for order in (A_FIRST, B_FIRST))


def shown(case: Case, results: Sequence[Path]) -> Shown:
    """The pictures of a case from the folders of results. Raises OSError, and UNREADABLE for a sham of what is none."""
    sample = case.sample
    found = [sample.result_in(folder).read_bytes() for folder in results]
    if case.variant == SHAM:
        found = [_encoded_again(data) for data in found]
    if case.variant == B_FIRST:
        found.reverse()
    references = () if case.call == PLACE else tuple(one.picture.data() for one in sample.references)
    return Shown(sample.person.data(), references, tuple(found))


def key(case: Case, pictures: Shown, words: str, judge: Mapping[str, Any]) -> str:
    """Of pictures, words, model and decoding settings, and which time it is asked: equal keys, one answer."""
    parts = [hashlib.sha256(data).hexdigest() for data in pictures.of(case.call)]
    told = json.dumps([parts, hashlib.sha256(words.encode()).hexdigest(), judge, case.repeat], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _chosen(samples: Sequence[Sample], share: float, of: str) -> set[str]:
    ids = sorted((sample.id for sample in samples), key=lambda name: hashlib.sha256(f"{of}/{name}".encode()).digest())
    return set(ids[: math.ceil(share * len(ids))])


def _opened(data: bytes) -> Image.Image:
    """Upright, as its EXIF says; a picture without such a turn is not decoded yet."""
    image: Image.Image = Image.open(io.BytesIO(data))
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _encoded_again(data: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(stream, "JPEG", quality=SHAM_QUALITY)
    return stream.getvalue()
