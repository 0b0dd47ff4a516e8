"""Folders of noise that any machine draws alike: NumPy's RandomState is frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise_folder(
    folder: Path, count: int, seed: int, low: int = 0, high: int = 256, size: tuple[int, int] = (36, 48)
) -> Path:
    """`count` pictures of `size` (width, height), called 00.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.RandomState(seed)
    for i in range(count):
        pixels = dice.randint(low, high, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder
