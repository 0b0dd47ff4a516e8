"""Engines built by TensorRT run no adapters, and say so before anything of a request is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graph_parity import tiny_batch
from lora_files import write_lora
from PIL import Image

from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import BackendError, RequestError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.weights import NANO
from engine_build.options import EngineOptions
from engine_build.runtime.loading import fingerprint
from engine_build.tensorrt.backend import engine_over
from engine_build.tensorrt.torch_runner import TorchRunner
from kernels import Route


def test_graphs_refuse_adapters_and_serve_the_others(tmp_path: Path) -> None:
    runner = TorchRunner(NANO, "plugin", torch.device("cpu"), torch.float32)
    engine = engine_over("nano", NANO, runner, "plugin", EngineOptions(previews=False), fingerprint(NANO))
    lora = write_lora(tmp_path / "a.safetensors", {"transformer_blocks.0.attn.to_q": (8, 8)}, 0)
    with pytest.raises(BackendError, match="the tensorrt backend takes no adapters: bake a LoRA in at start"):
        engine.register_adapter("a", lora)
    assert engine.adapters() == ()
    grey = ImageInput(Image.new("RGB", (72, 96), "grey"), "grey")
    told = compose([GarmentPhrase("tops")])
    asked = TryOnRequest("plain", grey, (replace(grey, category="tops"),), told, steps=1, size=(64, 64))
    plain, refused = engine.run([asked, replace(asked, id="a", adapters=(("a", 1.0),))])
    assert plain.status == "succeeded"
    assert isinstance(refused.error, RequestError)
    batch = replace(tiny_batch((3, (2, 2), ((2, 2),))), route=Route((((0, 1.0),),)))
    for work in (engine.pipeline.model.prepare, engine.pipeline.model.encode_references):
        with pytest.raises(ValueError, match="no adapters beside"):
            work(batch)
