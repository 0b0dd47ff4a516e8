"""Tiny random FLUX.2-klein checkpoints, written by diffusers and transformers themselves."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT

TEXT_WIDTH = 16
TEXT_LAYERS = (1, 2, 3)
TEXT_TOKENS = 24
TRANSFORMER = {
    "num_layers": 2,
    "num_single_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 16,
    "joint_attention_dim": TEXT_WIDTH * len(TEXT_LAYERS),
    "axes_dims_rope": (8, 8, 8, 8),
    "guidance_embeds": False,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_transformer(seed: int = 0, **changes: object) -> Flux2Transformer2DModel:
    """diffusers' transformer with random weights: norms vary, gates are wide open."""
    torch.manual_seed(seed)
    model = Flux2Transformer2DModel(**{**TRANSFORMER, **changes}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm_" in name and parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif "modulation" in name:
                parameter.mul_(10)
    return model


def tiny_tokenizer() -> Qwen2TokenizerFast:
    """A byte-level BPE without merges: 256 bytes and klein's three special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*letters, *specials])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_pipeline(seed: int = 0, kv: bool = False) -> Flux2KleinPipeline | Flux2KleinKVPipeline:
    """A complete klein pipeline of a few hundred thousand parameters, 8 pixels per token side."""
    transformer = tiny_transformer(seed)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed + 1)
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    ).eval()
    with torch.no_grad():
        vae.bn.running_mean.normal_(0, 0.3)
        vae.bn.running_var.uniform_(0.5, 1.5)
    pipeline_class = Flux2KleinKVPipeline if kv else Flux2KleinPipeline
    return pipeline_class(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential"),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=True,
    )


def write_checkpoint(folder: Path, seed: int = 0, kv: bool = False, shard_size: str = "10GB") -> Path:
    """The tiny pipeline saved as a diffusers folder; returns the folder."""
    tiny_pipeline(seed, kv).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the MMDiT of a shape, counted on the meta device."""
    with torch.device("meta"):
        return sum(p.numel() for p in MMDiT(config).parameters())
