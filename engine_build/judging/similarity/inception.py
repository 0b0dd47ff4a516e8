"""Inception features of pictures as clean-fid takes them, from the user's own file: nothing is downloaded.

clean-fid itself is not used. It demands torchvision, whose wheel from PyPI breaks `import diffusers` beside torch's CPU
build, and its `sqrtm(..., disp=False)` fails from scipy 1.18. What it defines is little and is done here: every channel
resized alone in float by PIL's bicubic filter to 299 x 299, not rounded, clipped to 0..255, then (x - 128) / 128.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine_build.errors import CheckpointError
from engine_build.judging.similarity.distances import Features

SIDE = 299
BATCH = 16
SOURCE = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"


class Inception:
    """The network of `inception-2015-12-05.pt`, a TorchScript file with the part `layers`."""

    def __init__(self, file: Path, device: str = "cpu") -> None:
        """Raises CheckpointError for a file that is not there or is another network."""
        if not file.is_file():
            raise CheckpointError(
                f"{file} is not there. FID and KID need the network that clean-fid uses: fetch {SOURCE} (91 MB) "
                f"once and name the file with --inception"
            )
        try:
            with warnings.catch_warnings():
                # The file exists as TorchScript only, whatever torch thinks of TorchScript.
                warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
                network: Any = torch.jit.load(file, map_location=device)
            self._layers: Callable[[Tensor], Tensor] = network.eval().layers.forward
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{file} is not inception-2015-12-05.pt: {reason}") from error
        self._device = device
        self.digest = file_digest(file)

    @torch.inference_mode()
    def features(self, pictures: Iterable[Image.Image], done: Callable[[int], None] = lambda count: None) -> Features:
        """(N, D) of RGB pictures, D = 2048 for the published network; `done` hears how many more are finished."""
        found = []
        for batch in _batches(pictures):
            x = torch.from_numpy(np.stack([resized(picture) for picture in batch])).to(self._device)
            found.append(self._layers((x - 128) / 128).reshape(len(batch), -1).double().cpu().numpy())
            done(len(batch))
        return np.concatenate(found) if found else np.empty((0, 1))


def resized(picture: Image.Image) -> NDArray[np.float32]:
    """(3, 299, 299) in 0..255, not rounded."""
    channels = [
        np.asarray(channel.convert("F").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in picture.split()
    ]
    return np.stack(channels).clip(0, 255).astype(np.float32)


def file_digest(file: Path) -> str:
    """SHA-256 of a file: two tables compare only if their networks do."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _batches(pictures: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    rest = iter(pictures)
    while batch := list(islice(rest, BATCH)):
        yield batch
