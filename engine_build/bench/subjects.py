"""What is measured: engines and diffusers' pipeline around one set of random weights in a preset's shape.

Random weights take the same time as trained ones. The tokenizer is the bundled one; prompts are padded to
klein's 512 tokens where the preset is klein's size.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import nn
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from engine_build.config import PRESETS, CheckpointConfig, ModelConfig, ReferenceAttention, read_json
from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.mmdit import MMDiT
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import NANO, empty_model
from engine_build.options import EngineOptions
from engine_build.runtime.caches import Caches
from engine_build.runtime.loading import graphs_of, pick_kernels
from engine_build.runtime.pipeline import Pipeline
from engine_build.runtime.sampling import Schedule
from engine_build.runtime.torch_engine import TorchEngine
from kernels.fp8 import convert

QWEN3_4B = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
}  # fmt: skip
TEXT_LAYERS = (9, 18, 27)
COMPILED_SHAPES = 64  # beyond torch's own limit of 8 a further shape would silently run uncompiled

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """Random weights of every part of a preset on one device."""

    preset: str
    device: torch.device
    dtype: torch.dtype

    @property
    def shape(self) -> ModelConfig:
        return PRESETS[self.preset]

    @cached_property
    def model(self) -> MMDiT:
        return _random(empty_model(self.shape), self.device, self.dtype)

    @cached_property
    def vae(self) -> AutoencoderKLFlux2:
        with torch.device("meta"):
            made = AutoencoderKLFlux2.from_config(
                read_json(NANO / "vae" / "config.json") if self.preset == "nano" else dict(AutoencoderKLFlux2().config)
            )
        vae = _random(made, self.device, self.dtype)
        vae.bn.running_mean.zero_()
        vae.bn.running_var.fill_(1.0)
        return vae

    @cached_property
    def text_encoder(self) -> TextEncoder:
        if self.preset == "nano":
            config = Qwen3Config.from_pretrained(NANO / "text_encoder")
            config.num_hidden_layers = max(self.config("isolated").text_layers)
        else:
            width = self.shape.joint_attention_dim // len(TEXT_LAYERS)
            if width != QWEN3_4B["hidden_size"]:
                raise RequestError(f"the bench has no text encoder for {self.preset}")
            config = Qwen3Config(**QWEN3_4B, num_hidden_layers=max(TEXT_LAYERS))
        if config.layer_types is not None:
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        with torch.device(self.device):
            model = Qwen3Model(config).to(self.dtype)  # its tables of frequencies are not parameters
        tokenizer = AutoTokenizer.from_pretrained(NANO / "tokenizer", local_files_only=True)
        return TextEncoder(model, tokenizer, self.config("isolated"))

    def config(self, mode: ReferenceAttention) -> CheckpointConfig:
        """The checkpoint's configuration in a mode, with places for six garments of 512 (nano: 64) pixels a side."""
        own = CheckpointConfig.load(NANO)
        if self.preset == "nano":
            return replace(own, reference_attention=mode, garment_canvas=(64, 64), note="random weights")
        return CheckpointConfig(
            reference_attention=mode, max_references=1 + MAX_GARMENTS, chat_template=False, text_layers=TEXT_LAYERS,
            garment_area=512 * 512, note="random weights",
        )  # fmt: skip

    def engine(self, mode: ReferenceAttention, backend: str, fp8: bool, cached: bool) -> TorchEngine:
        """An engine over these weights; FP8 copies the MMDiT's, fused norms the autoencoder.

        Raises BackendError for kernels not here.
        """
        kernels, config = pick_kernels(backend), self.config(mode)
        model = empty_model(replace(self.shape, reference_attention=mode), kernels)
        model.load_state_dict(self.model.state_dict(), strict=True, assign=True)
        model.eval().requires_grad_(False)
        if fp8:
            convert(model)
        options = EngineOptions(previews=False, reference_cache_bytes=(8 << 30) if cached else 0)
        pipeline = Pipeline(
            model=model,
            autoencoder=Autoencoder(deepcopy(self.vae) if kernels.fused else self.vae, kernels),
            text_encoder=self.text_encoder,
            schedule=Schedule(),
            caches=Caches.of(
                text_bytes=0,
                latent_bytes=options.latent_cache_bytes if cached else 0,
                reference_bytes=options.reference_cache_bytes,
            ),
            checkpoint_id=f"random {self.preset}",
        )
        if recording := graphs_of(options, model):
            pipeline.stepper = recording
        return TorchEngine(f"{self.preset}, random weights", pipeline, config, options)

    def diffusers(self, compiled: bool) -> Any:
        """diffusers' own pipeline over the same weights, without a text encoder: it is given embeddings."""
        with torch.device("meta"):
            transformer = Flux2Transformer2DModel.from_config(self.shape.to_diffusers())
        transformer.load_state_dict(self.model.state_dict(), strict=True, assign=True)
        transformer.eval().requires_grad_(False)
        vae = self.vae
        pipeline = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential"),
            vae=vae, text_encoder=None, tokenizer=None, transformer=transformer, is_distilled=True,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        if compiled:
            torch._dynamo.config.recompile_limit = COMPILED_SHAPES
            pipeline.transformer = torch.compile(transformer, dynamic=False)
        return pipeline


def _random(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """The module from the meta device: normal weights, norms of one, biases and buffers zero."""
    module = module.to_empty(device=device).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    for buffer in module.buffers():
        buffer.zero_()
    return module
