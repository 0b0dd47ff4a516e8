"""LPIPS of two pictures, and where it lies: the heads that torchmetrics ships, on the user's own backbone file.

The heads (Zhang et al., 2018, version 0.1) weigh the channels of an ImageNet network; torchmetrics, with which CatVTON
and FastFit measure, has them in its wheel. The backbone is torchvision's file of that network. torchvision itself is
not needed: its layers are few, and stand here under the names of its file. Letters: H, W pixels, C channels.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from engine_build.errors import CheckpointError
from engine_build.judging.similarity.inception import file_digest

TAPS = {"squeeze": (1, 4, 7, 9, 10, 11, 12), "alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""By backbone: the layers whose outputs are compared. squeeze is what CatVTON and FastFit report."""
SOURCES = {
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}


class Fire(nn.Module):
    """SqueezeNet's block: (C) to few channels, from these to twice `wide`."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeeze() -> nn.Sequential:
    """The features of SqueezeNet 1.1."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    first = (nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool())
    middle = (Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192))
    return nn.Sequential(*first, *middle, Fire(384, 64, 256), Fire(512, 64, 256))


def alex() -> nn.Sequential:
    """The features of AlexNet."""
    first = (nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU())
    middle = (nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1))
    return nn.Sequential(*first, *middle, nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())


def vgg() -> nn.Sequential:
    """The features of VGG-16."""
    layers: list[nn.Module] = []
    before = 3
    for width, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1])


BACKBONES = {"squeeze": squeeze, "alex": alex, "vgg": vgg}


class Lpips:
    """LPIPS on one backbone."""

    def __init__(self, file: Path, net: str = "squeeze", device: str = "cpu") -> None:
        """Raises CheckpointError for an unknown backbone, or a file that is not there or of another network."""
        if net not in BACKBONES:
            raise CheckpointError(f"there is no LPIPS backbone {net!r}; choose from {', '.join(BACKBONES)}")
        if not file.is_file():
            raise CheckpointError(
                f"{file} is not there. LPIPS needs torchvision's file of its backbone: fetch {SOURCES[net]} once and "
                f"name it with --lpips"
            )
        self.net, self.digest, self._device = net, file_digest(file), device
        self._layers = BACKBONES[net]()
        given = {name: tensor for name, tensor in _tensors(file).items() if not name.startswith("classifier.")}
        try:
            self._layers.load_state_dict({name.removeprefix("features."): x for name, x in given.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{file} is not the backbone {net} of torchvision: {reason}") from error
        self._layers.to(device).eval()
        self._heads = [head.to(device) for head in _heads(net)]
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=device).view(1, 3, 1, 1)

    def distance(self, a: Tensor, b: Tensor) -> float:
        """LPIPS of pictures (3, H, W) in [0, 1] of one size."""
        return float(sum(float(layer.mean()) for layer in self._differences(a, b)))

    def map(self, a: Tensor, b: Tensor) -> Tensor:
        """(H, W): where two pictures (3, H, W) in [0, 1] differ, each layer enlarged to their size."""
        size = a.shape[1:]
        layers = [interpolate(x, size, mode="bilinear", align_corners=False) for x in self._differences(a, b)]
        return torch.cat(layers, 1).sum((0, 1)).cpu()

    @torch.inference_mode()
    def _differences(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """(1, 1, h, w) of every tapped layer."""
        x = (2 * torch.stack([a, b]).to(self._device) - 1 - self._shift) / self._scale
        found: list[Tensor] = []
        for i, layer in enumerate(self._layers):
            x = layer(x)
            if i in TAPS[self.net]:
                unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                found.append(((unit[:1] - unit[1:]).square() * self._heads[len(found)]).sum(1, keepdim=True))
        return found


def _heads(net: str) -> list[Tensor]:
    """(1, C, 1, 1) a tapped layer, in order."""
    with as_file(files("torchmetrics.functional.image") / "lpips_models" / f"{net}.pth") as path:
        given = _tensors(path)
    return [given[f"lin{i}.model.1.weight"] for i in range(len(TAPS[net]))]


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a .pth or .safetensors file holds; no code of it is run. Raises CheckpointError for anything else."""
    try:
        given: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as weights: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(given, dict) or not all(isinstance(value, Tensor) for value in given.values()):
        raise CheckpointError(f"{file} does not hold the weights of a network")
    return given
