"""The graphs as torch modules: what is exported, run before it is exported. Calibration watches its linears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine_build.config import CheckpointConfig
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import load_model
from engine_build.tensorrt.graphs import DitGraph, kinds_of
from engine_build.tensorrt.part_graphs import TextGraph, VaeDecoderGraph, VaeEncoderGraph
from engine_build.tensorrt.ports import Attention, Graph


class TorchRunner:
    """A checkpoint's graphs on one device, in one dtype."""

    def __init__(self, folder: Path, attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        config = CheckpointConfig.load(folder)
        self.model = load_model(folder, device=device, dtype=dtype)
        text = TextEncoder.load(folder, config, device=device, dtype=dtype)
        vae = Autoencoder.load(folder, device=device, dtype=dtype).vae
        self._graphs: dict[str, Graph] = {
            **{str(kind): DitGraph(self.model, kind, attention) for kind in kinds_of(self.model.config)},
            "text": TextGraph(text.model, config.text_layers),
            "vae_encoder": VaeEncoderGraph(vae),
            "vae_decoder": VaeDecoderGraph(vae),
        }

    def run(self, graph: str, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        module = self._graphs[graph]
        with torch.inference_mode():
            outputs = module(*(feeds[port.name] for port in module.inputs))
        return dict(zip((port.name for port in module.outputs), outputs, strict=True))
