"""A user's own parser: any semantic segmentation model of transformers whose classes have names we know."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from engine_build.support.classes import from_classes, region_of
from engine_build.support.errors import SupportError
from engine_build.support.regions import RegionMap


class SegmentationRegions:
    """`model` is a folder or a hub id. Raises SupportError where it cannot be loaded or has classes nobody knows."""

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        if not model:
            raise SupportError("unknown-provider", "say which model: transformers:FOLDER or transformers:HUB-ID")
        try:
            self._processor = AutoImageProcessor.from_pretrained(model)
            self._model = AutoModelForSemanticSegmentation.from_pretrained(model).to(device).eval()
        except (OSError, ValueError) as error:
            raise SupportError("provider-failed", f"{model} is no segmentation model: {error}") from error
        self._names = {int(number): str(name) for number, name in self._model.config.id2label.items()}
        for name in self._names.values():
            region_of(name)

    def __call__(self, photo: Image.Image) -> RegionMap:
        """Regions at the size of the model's logits: the support is coarser still."""
        inputs = self._processor(images=photo.convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**{name: value.to(self._model.device) for name, value in inputs.items()}).logits
        return from_classes(logits[0].argmax(0).cpu().numpy(), self._names)
