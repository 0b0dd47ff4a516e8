"""Networks in the shape of those that users bring, small and with weights that any machine makes alike."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from engine_build.judging.similarity.perceptual import BACKBONES

FEATURES = 16


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, FEATURES, 7, stride=4)
        dice = np.random.RandomState(3)
        for parameter in (self.conv.weight, self.conv.bias):
            assert parameter is not None
            parameter.data = torch.from_numpy(dice.randn(*parameter.shape).astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean([2, 3], keepdim=True)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def scripted(network: nn.Module, file: Path) -> Path:
    """A module as a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(file))
    return file


def inception_file(folder: Path) -> Path:
    """A TorchScript file with `layers`, as inception-2015-12-05.pt has, of 16 features."""
    return scripted(_Network(), folder / "inception.pt")


def backbone_file(folder: Path, net: str = "squeeze") -> Path:
    """A backbone of LPIPS with random weights, in a file as torchvision's."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in BACKBONES[net]().state_dict().items():
        fan = tensor[0].numel() if tensor.ndim > 1 else 1
        state[f"features.{name}"] = torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5
    state["classifier.1.weight"] = torch.zeros(10, 4)
    torch.save(state, folder / f"{net}.pth")
    return folder / f"{net}.pth"


def dino_folder(folder: Path) -> Path:
    """A ViT of 32 pixels as transformers saves it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(folder)
    return _prepared(folder, "ViTImageProcessor")


def clip_folder(folder: Path) -> Path:
    """A CLIP of 32 pixels as transformers saves it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return _prepared(folder, "CLIPImageProcessor")


def _prepared(folder: Path, kind: str) -> Path:
    told = {"image_processor_type": kind, "do_normalize": True, "do_resize": True, "resample": 2, "size": 32}
    told |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if kind.startswith("CLIP"):
        told |= {"do_center_crop": True, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder
