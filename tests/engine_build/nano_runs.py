"""The smallest nano that training accepts: seconds to train, write and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine_build.config import PRESETS
from engine_build.training.loop import tokenizer
from engine_build.training.loop.export import export
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.nano.vae import VaeConfig, build

VAE = VaeConfig(channels=(8, 8, 8), steps=4, batch=2, crop=16, heights=(32,), save_every=2)
FLOW = FlowConfig(steps=4, height=32, shot=16, scenes=2, draws=2, mix=(1.0,), decay_steps=2, save_every=2)
SHAPE = replace(PRESETS["nano"], num_layers=1, num_single_layers=1, num_attention_heads=2)
CONFIG = """
out = "{out}"
[vae]
channels = [8, 8, 8]
steps = 2
batch = 2
crop = 16
heights = [64]
[flow]
steps = 3
height = 64
shot = 16
scenes = 2
draws = 2
mix = [1, 1]
show_every = 2
[model]
num_layers = 1
num_single_layers = 1
num_attention_heads = 2
[checkpoint]
default_steps = 2
"""


def random_nano(vocabulary: int) -> NanoModel:
    """A nano whose every part has a say: gates and output layers are open."""
    torch.manual_seed(0)
    model = NanoModel(SHAPE, vocabulary).eval()
    with torch.no_grad():
        for name, weight in model.dit.named_parameters():
            if "modulation" in name or "proj_out" in name or "norm_out" in name:
                weight.normal_(0, 0.1)
    return model


def write_nano(folder: Path, config: FlowConfig = FLOW) -> NanoModel:
    """A random nano exported to `folder` as training does it."""
    words = tokenizer.train(samples=100)
    model = random_nano(len(words))
    vae = build(VAE).eval()
    with torch.no_grad():
        vae.bn.running_mean.normal_(0, 0.3)
        vae.bn.running_var.uniform_(0.5, 1.5)
    export(folder, model, vae, words, config, 2)
    return model
