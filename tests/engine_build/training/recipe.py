"""The smallest run of the whole recipe: one-block networks, 32 px, two or three steps a stage."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
out = "{out}"
autoencoder_from = "nano"
tokenizer_edits = 50
device = "cpu"

[model]
num_layers = 1
num_single_layers = 1
num_attention_heads = 2
attention_head_dim = 16
axes_dims_rope = [4, 4, 4, 4]
joint_attention_dim = 48
in_channels = 64
reference_attention = "joint"

[checkpoint]
default_steps = 2

[pretrain]
{common}

[resolution]
{common}
start_from = "pretrain"
heights = [32, 64]
shots = [16, 32]
begins = [0, 2]

[tryon]
{common}
start_from = "resolution"
mix = [1.0, 1.0]
validate_every = 2

[isolate]
{common}
start_from = "tryon"
mix = [1.0, 1.0]
report_samples = 2
report_steps = 2

[nft]
{common}
start_from = "isolate"
prompts = 2
group = 2
sample_steps = 2
mix = [1.0, 1.0]

[cfg-distill]
{common}
start_from = "nft"
mix = [1.0, 1.0]

[dmd]
{common}
start_from = "cfg-distill"
mix = [1.0, 1.0]
fake_updates = 2
student_steps = 2

[expert]
{common}
start_from = "isolate"
domain = "top"
lora_rank = 2

[packing]
height = 64
heights = [64, 32]
batch = 4
draws = 1
repeats = 1
"""
COMMON = """height = 64
shot = 32
steps = 3
batch = 2
draws = 2
chunk = 4
learning_rate = 1e-2
warm_up = 1
decay_steps = 1
log_every = 1
save_every = 100
show_every = 0
"""


def write_config(folder: Path, out: str = "out", more: str = "", common: str = COMMON) -> Path:
    """A configuration file whose run goes to `folder/out`; `more` is appended."""
    path = folder / "recipe.toml"
    path.write_text(CONFIG.format(out=folder / out, common=common) + more)
    return path
