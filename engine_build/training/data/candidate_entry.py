"""From a candidate to a sample, or to the reason why it cannot be one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine_build.instruction import GarmentPhrase, compose
from engine_build.support.classes import from_classes
from engine_build.support.domains import OF_CATEGORY
from engine_build.support.errors import SupportError
from engine_build.support.regions import LABEL, RegionMap
from engine_build.training.data import masking
from engine_build.training.data.entry import Entry, EntryReference, Picture
from engine_build.training.data.layouts import Candidate
from engine_build.training.data.pictures import BrokenPicture, encoded, read, read_labels
from engine_build.training.data.twins import Look, look


@dataclass(frozen=True)
class Rules:
    """What a picture must be, in pixels and as longer by shorter side."""

    min_side: int = 256
    min_garment: int = 128
    max_aspect: float = 2.5


@dataclass(frozen=True)
class PreparedEntry:
    """A sample that passed the rules, its decoded pictures (target first, then references) and their looks."""

    entry: Entry
    pictures: tuple[Image.Image, ...]
    looks: tuple[Look, ...]


class Dropped(Exception):
    """No sample: a reason that many share, and the detail of this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def prepare(candidate: Candidate, key: str, source: str, rules: Rules) -> PreparedEntry:
    """Read a candidate's pictures and make its sample, told by the grammar. Raises Dropped."""
    truth, target = _picture(candidate.truth, "target")
    _fits(truth, "target", rules.min_side, rules)
    regions = _regions(candidate, truth)
    references, shown = [], []
    for garment in candidate.garments:
        image, stored = _picture(garment.path, "garment")
        _fits(image, "garment", rules.min_garment, rules)
        category = garment.category
        if category == "auto" and regions is not None:
            category = _worn(regions)
        references.append(EntryReference(stored, category, garment.layer, garment.description))
        shown.append(image)
    categories = tuple(r.category for r in references)
    person, edited, masked = _person(candidate, truth, regions, categories, rules)
    maps = {} if edited is None else {"edited": encoded(edited).data}
    if regions is not None:
        maps["target_regions"] = encoded(Image.fromarray(regions.labels)).data
    phrases = [GarmentPhrase(r.category, r.layer, r.description) for r in references]
    entry = Entry(
        key=key,
        person=person,
        references=tuple(references),
        target=target,
        instruction=candidate.instruction or compose(phrases),
        source=source,
        masked=masked,
        maps=maps,
        labels=LABEL if regions is not None else {},
        facts={"name": candidate.name},
    )
    pictures = (truth, *shown)
    return PreparedEntry(entry, pictures, tuple(look(one) for one in pictures))


def _person(
    candidate: Candidate, truth: Image.Image, regions: RegionMap | None, categories: tuple[str, ...], rules: Rules
) -> tuple[Picture, Image.Image | None, bool]:
    support = None
    if regions is not None and all(name in OF_CATEGORY for name in categories):
        if (seen := masking.share(regions, categories)) < masking.MIN_SHARE:
            raise Dropped("garment not seen on the person", f"{seen:.2%} of the parse")
        support = masking.support_of(regions, categories, truth.size)
    if candidate.person is not None:
        image, stored = _picture(candidate.person, "person")
        _fits(image, "person", rules.min_side, rules)
        if image.size != truth.size:
            raise Dropped("person and target differ in size", f"{image.size} and {truth.size}")
        return stored, support, False
    mask = _labels(candidate.mask, truth, "mask") or support
    if candidate.masked is not None:
        image, stored = _picture(candidate.masked, "person")
        if image.size != truth.size:
            raise Dropped("person and target differ in size", f"{image.size} and {truth.size}")
        return stored, mask, True
    if mask is None:
        raise Dropped("no picture to edit", "neither another photo of the person, nor a mask, nor a parse")
    return encoded(masking.greyed(truth, mask), lossless=False), mask, True


def _regions(candidate: Candidate, truth: Image.Image) -> RegionMap | None:
    labels = _labels(candidate.labels, truth, "parse")
    if labels is None:
        return None
    try:
        return from_classes(np.asarray(labels), candidate.classes)
    except SupportError as error:
        raise Dropped("parse broken", str(error)) from error


def _worn(regions: RegionMap) -> str:
    """Trousers or a skirt: whichever covers more; `auto` where neither is seen."""
    shares = {name: masking.share(regions, (name,)) for name in ("pants", "skirts")}
    name = max(shares, key=lambda one: shares[one])
    return name if shares[name] >= masking.MIN_SHARE else "auto"


def _picture(path: Path, part: str) -> tuple[Image.Image, Picture]:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise Dropped(f"{part} missing", path.name) from error
    except (BrokenPicture, OSError) as error:
        raise Dropped(f"{part} broken", f"{path.name}: {error}") from error


def _labels(path: Path | None, truth: Image.Image, part: str) -> Image.Image | None:
    if path is None:
        return None
    try:
        image = read_labels(path)
    except (BrokenPicture, OSError) as error:
        raise Dropped(f"{part} broken", f"{path.name}: {error}") from error
    if image.size != truth.size:
        raise Dropped(f"{part} and target differ in size", f"{image.size} and {truth.size}")
    return image


def _fits(image: Image.Image, part: str, least: int, rules: Rules) -> None:
    width, height = image.size
    if min(width, height) < least:
        raise Dropped(f"{part} too small", f"{width}x{height}, at least {least}")
    if max(width, height) > rules.max_aspect * min(width, height):
        raise Dropped(f"{part} too narrow", f"{width}x{height}, at most {rules.max_aspect:g}:1")
