"""Experts in the manner of sm4llVTONs: a small LoRA a domain, trained the way it infers.

The photo's edit support is masked out by the one function of `engine_build.support`, from what the photo alone shows,
in training as wherever the expert runs; the loss is restricted to it, and outside it the truth is the photo.

Letters: H, W picture; masks (H, W) bool.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.instruction import CATEGORIES
from engine_build.regions.world import WorldRegions
from engine_build.request.reference_pictures import fit_cover
from engine_build.support.classes import from_classes
from engine_build.support.domains import DOMAINS, Domain, domain_of
from engine_build.support.edit_support import Options, Shape, digest, edit_support
from engine_build.support.errors import SupportError
from engine_build.training.data.entry import Entry, ShardError
from engine_build.training.data.pictures import read_map, tensor_of
from engine_build.training.data.sample import Sample
from engine_build.training.data.source import ShardSource
from engine_build.training.data.world_tryons import ATTEMPTS, WorldTryOns
from engine_build.training.loop.learner import StageConfig
from engine_build.world.parts import region_map
from engine_build.world.render import render
from engine_build.world.sample_files import picture

GREY = 0.5
_ANOTHER = 1_000_003
"""From a photo that cannot be used to the number of another."""
DRESSED = {name: domain for name, domain in DOMAINS.items() if set(domain.categories) <= set(CATEGORIES)}
"""Domains whose references are garments, the only ones that the world and real pairs show."""


@dataclass(frozen=True)
class ExpertConfig(StageConfig):
    """`domain` is one of DRESSED, `shape` that of its edit support.

    `regions` of drawn photos are what the bundled parser sees, as where the expert runs (`world`), or the `truth`.

    Without `automask` the photo is shown whole, as to the general model. `region_loss` restricts the loss to the edit
    support.
    """

    domain: str = "top"
    shape: Shape = "tight"
    regions: str = "world"
    automask: bool = True
    region_loss: bool = True
    lora_rank: int = 8
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    drop: float = 0.0

    @property
    def options(self) -> Options:
        """Those of the edit support."""
        return Options(self.shape)


def dressed(config: ExpertConfig) -> Domain:
    """The domain of a table. Raises RequestError for one unknown or without garments, and for an unknown shape."""
    domain = domain_of(config.domain)
    if config.domain not in DRESSED:
        raise RequestError(
            f"the {config.domain} expert needs pictures of {domain.categories[0]}, which neither the world nor real "
            f"pairs show; choose from {', '.join(DRESSED)}"
        )
    if config.shape not in ("tight", "box"):
        raise RequestError(f"an edit support is tight or box, not {config.shape!r}")
    if config.regions not in ("world", "truth"):
        raise RequestError(f"regions of drawn photos come from world, the parser, or truth, not {config.regions!r}")
    return domain


def describe(config: ExpertConfig, folder: Path) -> Path:
    """Write `expert.json` beside an expert's LoRA: what it dresses, the digest of the support it was trained with."""
    domain = dressed(config)
    said = {
        "domain": domain.name,
        "categories": domain.categories,
        "shape": config.shape,
        "regions": "shards" if config.data else config.regions,
        "support": digest(domain, config.options),
    }
    path = folder / "expert.json"
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return path


def masked(photo: Tensor, support: Tensor) -> Tensor:
    """The photo (3, H, W) with its edit support painted grey."""
    return torch.where(support, torch.full_like(photo, GREY), photo)


def of_expert(sample: Sample, photo: Tensor, support: Tensor, config: ExpertConfig) -> Sample:
    """A try-on of `photo` (3, H, W) as an expert is to learn it: grey where it paints, the photo elsewhere."""
    shown = masked(photo, support) if config.automask else photo
    return replace(
        sample,
        references=(shown, *sample.references[1:]),
        target=torch.where(support, sample.target, photo),
        edited=support.float() if config.region_loss else sample.edited,
    )


@dataclass(frozen=True)
class ExpertTryOns:
    """Try-ons of one garment of a domain, the photo masked as in inference, its truth the photo outside the support.

    A photo on which the parser finds nothing of the domain is passed over for another.
    """

    config: ExpertConfig

    @cached_property
    def source(self) -> WorldTryOns:
        """The world's try-ons of one garment of the domain."""
        return WorldTryOns(self.config.height, self.config.shot, mix=(1.0,), categories=dressed(self.config).categories)

    @cached_property
    def parser(self) -> WorldRegions:
        """The bundled one."""
        return WorldRegions()

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples whose `edited` map is the edit support."""
        return [self._sample(number, sample) for number, sample in zip(numbers, self.source.draw(numbers), strict=True)]

    def _sample(self, number: int, sample: Sample) -> Sample:
        c = self.config
        drawn = render([self.source.scene(number)], c.height, 8, parts=True)
        photo, parts = drawn.person[0], drawn.person_parts
        if parts is None:
            raise ValueError("the world gave no parts of what it drew")
        regions = region_map(parts[0]) if c.regions == "truth" else self.parser(picture(photo))
        try:
            support = edit_support(regions, dressed(c), c.options, size=(photo.shape[2], photo.shape[1]))
        except SupportError as error:
            if error.code != "nothing-to-edit":
                raise
            other = number + _ANOTHER
            return self._sample(other, self.source.draw([other])[0])
        return of_expert(sample, photo, torch.from_numpy(support), c)


@dataclass(frozen=True)
class ExpertShards(ShardSource):
    """The same of shards: samples of the domain's garments alone, their support from the regions stored with them.

    Where a sample's photo is its truth with the garment greyed, the truth itself is masked. Raises ShardError for a
    sample without regions, and where too many in a row hold nothing of the domain.
    """

    expert: ExpertConfig = field(default_factory=ExpertConfig)

    def sample(self, number: int) -> Sample:
        """The next sample of the domain, looking from `number * ATTEMPTS` on."""
        domain = dressed(self.expert)
        for place in range(number * ATTEMPTS, (number + 1) * ATTEMPTS):
            entry = self.shards.entry(place)
            if not entry.references or any(one.category not in domain.categories for one in entry.references):
                continue
            try:
                support = self._support(entry, domain)
            except SupportError as error:
                if error.code == "nothing-to-edit":
                    continue
                path, span = self.shards.place(place)
                raise ShardError(f"{path}: {span.key}: {error}") from error
            sample = super().sample(place)
            fitted = fit_cover(support, (sample.target.shape[2], sample.target.shape[1]))
            photo = sample.target if entry.masked else sample.references[0]
            return of_expert(sample, photo, tensor_of(fitted) > 0.5, self.expert)
        raise ShardError(f"{ATTEMPTS} samples in a row hold no {', '.join(domain.categories)} for {self.expert.domain}")

    def _support(self, entry: Entry, domain: Domain) -> Image.Image:
        stored = entry.maps.get("person_regions") or entry.maps.get("target_regions")
        if stored is None:
            raise SupportError("unknown-region", "holds no regions of the photo, which an expert must know")
        labels = read_map(stored)
        regions = from_classes(np.asarray(labels), {number: name for name, number in entry.labels.items()})
        return Image.fromarray(
            edit_support(regions, domain, self.expert.options, size=labels.size).astype(np.uint8) * 255
        )
