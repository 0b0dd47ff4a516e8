"""transformers probes for a package called `kernels`; ours must be versioned and must not disturb it."""

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import kernels


def test_transformers_models_run_beside_our_kernels() -> None:
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    logits = Qwen3ForCausalLM(config)(torch.tensor([[1, 2]])).logits
    assert logits.shape == (1, 2, 8)
    assert Path(kernels.__file__).parent == Path(__file__).parents[2] / "kernels"
    assert kernels.__version__.count(".") == 2
