"""The `tensorrt` backend of `load_engine`: the usual engine over a pipeline whose parts are graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from engine_build.config import CheckpointConfig, read_json
from engine_build.errors import BackendError
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import load_model, locate, model_config
from engine_build.options import EngineOptions
from engine_build.request.warm_sizes import WarmSize
from engine_build.runtime.caches import Caches
from engine_build.runtime.loading import fingerprint, pick_device
from engine_build.runtime.pipeline import Pipeline
from engine_build.runtime.sampling import Schedule
from engine_build.runtime.torch_engine import TorchEngine
from engine_build.tensorrt.model import GraphMMDiT, GraphRunner, GraphText, GraphVae
from engine_build.tensorrt.ports import Attention

ENGINES = "engines"


def load(
    model: str | Path, *, device: str = "auto", options: EngineOptions | None = None, engines: Path | None = None
) -> TorchEngine:
    """The engine of a checkpoint with TensorRT, from `engines` or the folder `engines` in the checkpoint's.

    Its warm-up makes the buckets ready that it was built for, unless others are declared.
    Raises BackendError without TensorRT, a GPU, or engines that were built for just this.
    """
    from engine_build.tensorrt.runtime import EngineRunner

    options = options or EngineOptions()
    folder = locate(model)
    weights = _with_loras(folder, options) if options.loras else None
    runner = EngineRunner(engines or folder / ENGINES, folder, pick_device(device), weights)
    attention: Attention = "plugin" if runner.manifest.attention == "plugin" else "standard"
    if not options.warm:
        options = replace(options, warm=tuple(map(WarmSize.parse, runner.manifest.buckets)))
    name = folder.name if Path(model).expanduser().is_dir() else str(model)
    return engine_over(name, folder, runner, attention, options, fingerprint(folder, options.loras))


def engine_over(
    name: str, folder: Path, runner: GraphRunner, attention: Attention, options: EngineOptions, checkpoint_id: str
) -> TorchEngine:
    """An engine whose network parts a runner computes; tokenizer and schedule come from the checkpoint."""
    config = CheckpointConfig.load(folder)
    shape = model_config(folder)
    if options.reference_attention not in (None, shape.reference_attention):
        raise BackendError("another reference attention needs engines of its own")
    autoencoder = Autoencoder.load(folder, device=runner.device, dtype=torch.float32)
    autoencoder.vae = GraphVae(runner)
    hidden = int(read_json(folder / "text_encoder" / "config.json")["hidden_size"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
    text = TextEncoder(GraphText(runner, hidden, config.text_layers), tokenizer, config)
    pipeline = Pipeline(
        model=GraphMMDiT(shape, runner, attention),  # type: ignore[arg-type]
        autoencoder=autoencoder,
        text_encoder=text,
        schedule=Schedule.load(folder),
        caches=Caches.of(
            text_bytes=options.text_cache_bytes,
            latent_bytes=options.latent_cache_bytes,
            reference_bytes=options.reference_cache_bytes,
        ),
        checkpoint_id=checkpoint_id,
    )
    return TorchEngine(name, pipeline, config, options)


def _with_loras(folder: Path, options: EngineOptions) -> dict[str, Tensor]:
    """The MMDiT's weights, by name, with LoRA files baked in, on the host in float32."""
    model = load_model(folder)
    adapters = LoraSet(model)
    for i, (path, strength) in enumerate(options.loras):
        adapters.add(f"{i}:{path.name}", read_lora(path), strength)
    adapters.bake()
    return dict(model.named_parameters())
