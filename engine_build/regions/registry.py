"""The parsers there are, by name."""

from __future__ import annotations

import torch

from engine_build.regions.boxes import BoxFinder
from engine_build.regions.sam2 import Sam2Regions
from engine_build.regions.segmentation import SegmentationRegions
from engine_build.regions.world import WorldRegions
from engine_build.support.errors import SupportError
from engine_build.support.port import Provider, Providers


def providers(finder: BoxFinder | None = None, device: torch.device | str = "cpu") -> Providers:
    """`world`, `transformers:MODEL` and, asking `finder` for boxes, `sam2:MODEL`; models run on `device`."""

    def sam2(model: str) -> Provider:
        if finder is None:
            raise SupportError("unknown-provider", "sam2 needs the address of a vision model that names boxes")
        return Sam2Regions(model, finder, device)

    return Providers(
        {
            "world": lambda _: WorldRegions(),
            "transformers": lambda model: SegmentationRegions(model, device),
            "sam2": sam2,
        }
    )
