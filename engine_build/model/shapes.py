"""The parts of a checkpoint on the meta device: every shape of a preset, a folder or a hub id, and no weights.

Source of the text encoders' shapes: Qwen3-4B and Qwen3-8B `config.json` (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from engine_build.config import PRESETS, CheckpointConfig, ModelConfig, read_json
from engine_build.errors import CheckpointError
from engine_build.model.tensor_files import tensor_headers
from engine_build.model.weights import locate, model_config

_QWEN3 = {
    2560: {"intermediate_size": 9728, "num_attention_heads": 32},
    4096: {"intermediate_size": 12288, "num_attention_heads": 32},
}
_TEXT_LAYERS = (9, 18, 27)


@dataclass(frozen=True)
class CheckpointShapes:
    """The shapes of a checkpoint's parts, all on the meta device."""

    name: str
    model: ModelConfig
    config: CheckpointConfig
    text: nn.Module
    vae: AutoencoderKLFlux2


def parts_of(model: str | Path) -> CheckpointShapes:
    """The shapes of a preset, a folder or a hub id. Raises CheckpointError for one that cannot be read."""
    return _preset(model) if isinstance(model, str) and model in PRESETS and model != "nano" else _folder(model)


def _preset(name: str) -> CheckpointShapes:
    """klein's autoencoder and Qwen3, at the preset's shape."""
    model = PRESETS[name]
    hidden = model.joint_attention_dim // len(_TEXT_LAYERS)
    if hidden not in _QWEN3:
        raise CheckpointError(f"the preset {name} has no known text encoder of width {hidden}")
    text = Qwen3Config(
        hidden_size=hidden, num_hidden_layers=max(_TEXT_LAYERS), num_key_value_heads=8, head_dim=128,
        vocab_size=151_936, **_QWEN3[hidden],
    )  # fmt: skip
    with torch.device("meta"):
        vae = AutoencoderKLFlux2()
    isolated = model.reference_attention == "isolated"
    config = CheckpointConfig(model.reference_attention, max_references=7 if isolated else 4)
    return CheckpointShapes(name, model, config, _text(text), vae)


def _folder(model: str | Path) -> CheckpointShapes:
    folder = locate(model)
    config = CheckpointConfig.load(folder)
    text = Qwen3Config(**read_json(folder / "text_encoder" / "config.json"))
    text.num_hidden_layers = min(text.num_hidden_layers, max(config.text_layers))
    text.layer_types = text.layer_types[: text.num_hidden_layers] if text.layer_types else None
    tensor_headers(folder / "transformer")  # a folder without weights is no checkpoint
    with torch.device("meta"):
        vae = AutoencoderKLFlux2.from_config(read_json(folder / "vae" / "config.json"))
    return CheckpointShapes(folder.name, model_config(folder), config, _text(text), vae)


def _text(config: Qwen3Config) -> nn.Module:
    with torch.device("meta"):
        encoder: nn.Module = Qwen3Model(config)
    return encoder.to(torch.bfloat16)
