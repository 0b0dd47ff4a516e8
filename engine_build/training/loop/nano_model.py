"""A network that a run makes from nothing: an MMDiT of a configured shape and the small text encoder it learns with.

Letters: N instructions, Lt and Dt length and width of text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT

TEXT_LAYERS = (1, 2, 3)


@dataclass(frozen=True)
class FlowConfig:
    """One flow-matching stage; sizes in pixels, `mix` the frequencies of 1 to 6 garments."""

    steps: int = 5000
    height: int = 96
    shot: int = 40
    scenes: int = 8
    draws: int = 3
    mix: tuple[float, ...] = (0.25, 0.2, 0.18, 0.15, 0.12, 0.1)
    learning_rate: float = 1.5e-3
    decay_steps: int = 1500
    shift: float = 1.8
    edit_weight: float = 4.0
    first_seed: int = 0
    ema: float = 0.998
    save_every: int = 200
    show_every: int = 500


class NanoModel(nn.Module):
    """Text encoder and MMDiT trained together; `forward` is the velocity for packed tokens."""

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        hidden = config.joint_attention_dim // len(TEXT_LAYERS)
        self.text = Qwen3Model(
            Qwen3Config(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=max(TEXT_LAYERS) + 1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=hidden // 2,
                max_position_embeddings=512,
                tie_word_embeddings=True,
            )
        )
        self.dit = MMDiT(config)
        self.dit.initialise()

    def embed(self, ids: Tensor) -> Tensor:
        """(N, Lt) token ids to text tokens (N, Lt, Dt)."""
        states = self.text(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat([states[layer] for layer in TEXT_LAYERS], dim=-1)
