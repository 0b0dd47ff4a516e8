"""Regions by SAM 2 (Apache-2.0): a vision model names what is seen in boxes, SAM 2 finds each one's outline.

Its pictures are prepared here, not by transformers' own class, which needs torchvision for nothing more than this: a
square, and ImageNet's mean and deviation. A test holds masks to the size of the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Sam2Model

from engine_build.regions.boxes import Box
from engine_build.support.errors import SupportError
from engine_build.support.regions import LABEL, Mask, RegionMap

LONG_SIDE = 1024
"""Outlines are sought on a photo no larger: SAM 2 sees no more, and the support is coarser still."""
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class Sam2Regions:
    """`model` is a folder or a hub id, `find` names the boxes. Raises SupportError where the model cannot be loaded."""

    def __init__(
        self, model: str, find: Callable[[Image.Image], Sequence[Box]], device: torch.device | str = "cpu"
    ) -> None:
        if not model:
            raise SupportError("unknown-provider", "say which model: sam2:FOLDER or sam2:HUB-ID")
        try:
            self._model = Sam2Model.from_pretrained(model).to(device).eval()
        except (OSError, ValueError) as error:
            raise SupportError("provider-failed", f"{model} is no SAM 2: {error}") from error
        self._side = int(self._model.config.prompt_encoder_config.image_size)
        self._find = find

    def __call__(self, photo: Image.Image) -> RegionMap:
        """Regions of a photo; of outlines that overlap the smaller lies above; none reaches beyond its box."""
        small = photo.convert("RGB")
        small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        labels = np.zeros((small.height, small.width), np.uint8)
        boxes = list(self._find(small))
        if not boxes:
            return RegionMap(labels)
        outlines = []
        for box, mask in zip(boxes, self.outlines(small, boxes), strict=True):
            rows = slice(int(box.top * small.height), int(np.ceil(box.bottom * small.height)))
            columns = slice(int(box.left * small.width), int(np.ceil(box.right * small.width)))
            inside = np.zeros_like(mask)
            inside[rows, columns] = mask[rows, columns]
            outlines.append((int(inside.sum()), box.region, inside))
        for _, region, inside in sorted(outlines, key=lambda one: -one[0]):
            labels[inside] = LABEL[region]
        return RegionMap(labels)

    def outlines(self, photo: Image.Image, boxes: Sequence[Box]) -> Sequence[Mask]:
        """What SAM 2 takes to be the thing in each box, (h, w) of the photo."""
        device = self._model.device
        square = photo.resize((self._side, self._side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255  # (3, S, S)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
        corners = torch.tensor([[b.left, b.top, b.right, b.bottom] for b in boxes]) * self._side  # (N, 4)
        with torch.inference_mode():
            found: Tensor = self._model(
                pixel_values=((pixels - mean) / deviation)[None].to(device),
                input_boxes=corners[None].to(device),
                multimask_output=False,
            ).pred_masks  # (1, N, 1, s, s)
            wide = F.interpolate(found[0].float(), (photo.height, photo.width), mode="bilinear", align_corners=False)
        masks: Sequence[Mask] = list((wide[:, 0] > 0).cpu().numpy())
        return masks
