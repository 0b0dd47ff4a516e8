"""M-DINO and M-CLIP-I of OmniTry-Bench: is the garment in the result the garment that was given?

Both are cut out by masks onto white, cropped with 30 pixels around in the picture's own proportions, and compared by
the cosine of a vision model's features: DINO's class token (they use facebook/dino-vits16), CLIP's image embedding
(openai/clip-vit-base-patch32). The model is a folder on this machine; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel

from engine_build.errors import CheckpointError
from engine_build.model.text_encoder import quiet

AROUND = 60
"""Pixels by which a crop is higher and wider than its mask."""
WHITE = (255, 255, 255)


class Likeness:
    """A vision model that says how alike two cut-outs are."""

    def __init__(self, folder: Path, kind: Literal["dino", "clip"], device: str = "cpu") -> None:
        """Raises CheckpointError for a folder that is not such a model."""
        if not (folder / "config.json").is_file() or not (folder / "preprocessor_config.json").is_file():
            raise CheckpointError(
                f"{folder} is not a folder of a transformers vision model: config.json, preprocessor_config.json and "
                f"weights are looked for; fetch one with: hf download MODEL --local-dir {folder}"
            )
        try:
            with quiet():
                model, loaded = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
                self._prepare: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
        missing = sorted(name for name in loaded["missing_keys"] if not name.startswith("pooler."))  # not used here
        if missing or loaded["mismatched_keys"]:
            raise CheckpointError(f"{folder} lacks weights of its model: {', '.join(missing[:4]) or 'other shapes'}")
        self._model: Any = model.to(device).eval()
        if kind == "clip" and not hasattr(self._model, "get_image_features"):
            raise CheckpointError(
                f"{folder} is a {type(self._model).__name__}, which has no image embedding: name a CLIP"
            )
        self._kind, self._device = kind, device

    @torch.inference_mode()
    def cosine(self, a: Image.Image, b: Image.Image) -> float:
        """How alike two RGB pictures are, at most 1."""
        prepared = [self._prepare(images=one, return_tensors="pt")["pixel_values"] for one in (a, b)]
        one, two = (normalize(self._embed(x.to(self._device)).double(), dim=-1) for x in prepared)
        return float((one * two).sum())

    def _embed(self, pixels: Tensor) -> Tensor:
        """(1, D) of pixels (1, 3, H, W)."""
        if self._kind == "dino":
            return torch.as_tensor(self._model(pixel_values=pixels).last_hidden_state[:, 0])
        found = self._model.get_image_features(pixel_values=pixels)
        return torch.as_tensor(getattr(found, "pooler_output", found))


def cut_out(picture: Image.Image, mask: NDArray[np.bool_]) -> Image.Image | None:
    """What lies under a mask (H, W) of a picture of that size, on white, cropped and enlarged; None if nothing does."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    alone = Image.composite(picture, Image.new("RGB", picture.size, WHITE), Image.fromarray(mask))
    wide, high = picture.size
    needed = min(wide, int(columns[-1] - columns[0]) + AROUND)
    from_height = min(high, int(rows[-1] - rows[0]) + AROUND) * wide // high
    width = min(max(needed, from_height), wide)
    if width == wide:
        return alone
    height = width * high // wide
    left = max(int((columns[0] + columns[-1]) / 2 - width / 2), 0)
    top = max(int((rows[0] + rows[-1]) / 2 - height / 2), 0)
    box = (left, top, min(left + width, wide), min(top + height, high))
    return alone.crop(box).resize(picture.size, Image.Resampling.BICUBIC)
