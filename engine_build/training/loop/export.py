"""A trained nano as a diffusers-format folder: the same layout as any FLUX.2-klein checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedTokenizerFast

from engine_build.config import CheckpointConfig
from engine_build.training.loop.nano_model import TEXT_LAYERS, FlowConfig, NanoModel

NOTE = (
    "nano knows only its illustrated world: drawn people and product shots like the samples on this page. "
    "Real photos come out as drawings; load a FLUX.2-klein checkpoint for them."
)


def export(
    folder: Path,
    model: NanoModel,
    vae: AutoencoderKLFlux2,
    tokenizer: PreTrainedTokenizerFast,
    config: FlowConfig,
    steps: int,
    largest_file: int = 0,
) -> None:
    """Write transformer, vae, text_encoder, tokenizer, scheduler, model_index.json and changeroom.json.

    No file of weights is larger than `largest_file` bytes, unless that is 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard = largest_file or 1 << 40
    vae.save_pretrained(folder / "vae", max_shard_size=shard)
    model.text.to(torch.float32).save_pretrained(folder / "text_encoder", max_shard_size=shard)
    tokenizer.save_pretrained(folder / "tokenizer")
    transformer = folder / "transformer"
    transformer.mkdir(exist_ok=True)
    for stale in transformer.glob("*.safetensors*"):
        stale.unlink()
    tensors = {name: value.detach().contiguous() for name, value in model.dit.state_dict().items()}
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(tensors, transformer, filename_pattern=pattern, max_shard_size=shard)
    for written in folder.rglob("*.safetensors"):
        written.chmod(0o644)
    _write(transformer / "config.json", model.dit.config.to_diffusers())
    (folder / "scheduler").mkdir(exist_ok=True)
    _write(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": config.shift,
            "use_dynamic_shifting": False,
        },
    )
    _write(
        folder / "model_index.json",
        {
            "_class_name": "Flux2KleinPipeline",
            "is_distilled": True,
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
    )
    CheckpointConfig(
        reference_attention=model.dit.config.reference_attention,
        max_references=7,
        default_size=(config.height * 3 // 4, config.height),
        default_steps=steps,
        max_text_tokens=512,
        pad_text=False,
        chat_template=False,
        text_layers=TEXT_LAYERS,
        garment_canvas=(config.shot, config.shot),
        max_pixels=4 * config.height * config.height * 3 // 4,
        max_steps=32,
        note=NOTE,
    ).save(folder)


def _write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
