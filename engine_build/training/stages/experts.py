"""Experts in the manner of sm4llVTONs: a small LoRA a domain, trained the way it infers.

The photo's edit support is masked out by one function, `automask`, in training and in inference alike, from what
the photo alone shows; the loss is restricted to it; and `repaint` returns the photo's own pixels elsewhere.

Letters: H, W picture; masks (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engine_build.training.data.entry import ShardError
from engine_build.training.data.sample import Sample
from engine_build.training.data.source import ShardSource
from engine_build.training.data.world_tryons import ATTEMPTS, WorldTryOns
from engine_build.training.loop.learner import StageConfig
from engine_build.world.render import render
from engine_build.world.specs import FACE, HAIR, REGION_OF, SKIN

GREY = 0.5


@dataclass(frozen=True)
class Domain:
    """What an expert dresses: its categories, the photo's regions it may repaint, how far beyond (shares of H)."""

    categories: tuple[str, ...]
    regions: tuple[int, ...]
    margin: float = 0.05


_TRUNK = tuple(REGION_OF[c] for c in ("tops", "dresses", "coats"))
_LEGS = tuple(REGION_OF[c] for c in ("pants", "skirts", "dresses"))
DOMAINS: dict[str, Domain] = {
    "top": Domain(("tops", "coats"), (*_TRUNK, SKIN)),
    "bottom": Domain(("pants", "skirts"), (*_LEGS, SKIN)),
    "dress": Domain(("dresses",), (*_TRUNK, *_LEGS, SKIN)),
    "shoes": Domain(("shoes",), (REGION_OF["shoes"],), 0.04),
    "hat": Domain(("hats",), (REGION_OF["hats"], HAIR), 0.10),
    "bag": Domain(("bags",), (REGION_OF["bags"], SKIN), 0.12),
}


@dataclass(frozen=True)
class ExpertConfig(StageConfig):
    """`domain` is one of DOMAINS. Without `automask` the photo is shown whole, as to the general model.

    `region_loss` restricts the loss to the edit support.
    """

    domain: str = "top"
    automask: bool = True
    region_loss: bool = True
    lora_rank: int = 8
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    drop: float = 0.0


def automask(regions: Tensor, domain: Domain) -> Tensor:
    """The edit support of a photo whose region map (H, W) a parser gave: the domain's regions and a margin.

    Face and, but for hats, hair stay out of it; so the support never depends on the picture to be made.
    """
    wanted = torch.isin(regions, torch.tensor(domain.regions, dtype=regions.dtype, device=regions.device))
    radius = max(1, round(domain.margin * regions.shape[0]))
    grown = F.max_pool2d(wanted[None, None].float(), 2 * radius + 1, 1, radius)[0, 0] > 0
    kept = [FACE] if HAIR in domain.regions else [FACE, HAIR]
    return grown & ~torch.isin(regions, torch.tensor(kept, dtype=regions.dtype, device=regions.device))


def masked(photo: Tensor, support: Tensor) -> Tensor:
    """The photo (3, H, W) with its edit support painted grey."""
    return torch.where(support, torch.full_like(photo, GREY), photo)


def repaint(photo: Tensor, result: Tensor, support: Tensor, feather: int = 2) -> Tensor:
    """The photo (3, H, W) uint8 with `result` inside the support, blended over `feather` pixels inward only.

    Pixels outside the support are the photo's own, exactly. Raises ValueError for shapes that do not match.
    """
    if photo.shape != result.shape or photo.shape[1:] != support.shape or photo.dtype != torch.uint8:
        raise ValueError("photo and result must be uint8 of one size, the support a mask of it")
    depth = torch.zeros(support.shape)
    inside = support.float()[None, None]
    for _ in range(feather):
        depth += inside[0, 0]
        inside = -F.max_pool2d(-inside, 3, 1, 1)
    alpha = torch.where(inside[0, 0] > 0, torch.ones_like(depth), depth / (feather + 1))
    mixed = photo.float() + alpha * (result.float() - photo.float())
    return torch.where(support, mixed.round().clamp(0, 255).to(torch.uint8), photo)


@dataclass(frozen=True)
class ExpertTryOns:
    """Try-ons of one garment of a domain, the photo masked as in inference, its truth the photo outside the support."""

    config: ExpertConfig

    def draw(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples whose `edited` map is the edit support."""
        c = self.config
        domain = DOMAINS[c.domain]
        source = WorldTryOns(c.height, c.shot, mix=(1.0,), categories=domain.categories)
        result = []
        for number, sample in zip(numbers, source.draw(numbers), strict=True):
            drawn = render([sample.scene], c.height, c.shot) if sample.scene is not None else None
            if drawn is None:
                raise ValueError(f"sample {number} has no scene to take regions from")
            photo, regions = drawn.person[0], drawn.person_regions[0]
            support = automask(regions, domain)
            shown = masked(photo, support) if c.automask else photo
            truth = torch.where(support, sample.target, photo)
            edited = support.float() if c.region_loss else sample.edited
            result.append(replace(sample, references=(shown, *sample.references[1:]), target=truth, edited=edited))
        return result


@dataclass(frozen=True)
class ExpertShards(ShardSource):
    """The same of shards: samples with a garment of the domain, their map of what is edited as the edit support.

    Raises ShardError for a sample without such a map, and where too many in a row hold nothing of the domain.
    """

    expert: ExpertConfig = field(default_factory=ExpertConfig)

    def sample(self, number: int) -> Sample:
        """The next sample of the domain, looking from `number * ATTEMPTS` on."""
        domain = DOMAINS[self.expert.domain]
        for place in range(number * ATTEMPTS, (number + 1) * ATTEMPTS):
            if any(one.category in domain.categories for one in self.shards.entry(place).references):
                return self._masked(super().sample(place), place)
        raise ShardError(f"{ATTEMPTS} samples in a row hold no {', '.join(domain.categories)} for {self.expert.domain}")

    def _masked(self, sample: Sample, place: int) -> Sample:
        if sample.edited is None:
            path, span = self.shards.place(place)
            raise ShardError(f"{path}: {span.key} does not say what is edited, which an expert must know")
        support, photo = sample.edited > 0.5, sample.references[0]
        shown = masked(photo, support) if self.expert.automask else photo
        return replace(
            sample,
            references=(shown, *sample.references[1:]),
            target=torch.where(support, sample.target, photo),
            edited=support.float() if self.expert.region_loss else sample.edited,
        )
