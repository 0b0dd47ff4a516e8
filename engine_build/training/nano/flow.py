"""Train a nano MMDiT and its text encoder by rectified flow on the procedural world.

References of an isolated checkpoint do not depend on the noise, so each scene's references are encoded once
and `draws` noise levels of its target attend them: most of a step's compute goes into targets. Noise levels
are logit-normal, shifted, and stratified over the batch. Matrices of the blocks are trained by Muon (Jordan et
al. 2024), everything else by AdamW.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine_build.config import ModelConfig
from engine_build.model.packing import PackedBatch, grid_ids, text_ids_of
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.muon import Muon
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.loop.run import Ema, Run, descend, warm_then_decay
from engine_build.training.nano.latents import Latents, LatentStream
from engine_build.training.stages.matching import noise_levels
from kernels import Segments


def packed(text: Tensor, noisy: Tensor, sigma: Tensor, latents: Latents, height: int, shot: int) -> PackedBatch:
    """M = N * draws noisy targets over N scenes' references; text is (M, Lt, Dt), noisy (M, L, C)."""
    n, k = latents.garments.shape[:2]
    m, pixels = len(noisy), 8
    rows, columns, side = height // pixels, height * 3 // 4 // pixels, shot // pixels
    references = torch.cat([latents.person, latents.garments.flatten(1, 2)], 1)
    ids = torch.cat([grid_ids(rows, columns, 10), *(grid_ids(side, side, 20 + 10 * i) for i in range(k))])
    return PackedBatch(
        text=text.flatten(0, 1),
        text_ids=text_ids_of(text[0]).repeat(m, 1),
        text_segments=Segments((text.shape[1],) * m),
        target=noisy.flatten(0, 1),
        target_ids=grid_ids(rows, columns).repeat(m, 1),
        target_segments=Segments((noisy.shape[1],) * m),
        references=references.flatten(0, 1),
        reference_ids=ids.repeat(n, 1),
        reference_segments=Segments(((rows * columns,) + (side * side,) * k) * n),
        reference_counts=(k + 1,) * n,
        sigma=sigma,
        draws=m // n,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, instructions: tuple[str, ...]) -> Tensor:
    """(N, Lt) ids, padded on the right to the longest; a few attended padding tokens change nothing that is read."""
    return tokenizer(list(instructions), padding=True, return_tensors="pt")["input_ids"]


def flow_loss(
    model: NanoModel, ids: Tensor, latents: Latents, config: FlowConfig, generator: torch.Generator
) -> Tensor:
    """Weighted ||v - (eps - x0)||^2 over `draws` noise levels a scene (Liu et al., 2022)."""
    draws = config.draws
    x0 = latents.target.repeat_interleave(draws, 0)  # (M, L, C)
    weight = latents.weight.repeat_interleave(draws, 0)[..., None]
    eps = torch.randn(x0.shape, generator=generator)
    sigma = noise_levels(len(x0), config.shift, generator)
    s = sigma[:, None, None]
    text = model.embed(ids).repeat_interleave(draws, 0)
    batch = packed(text, (1 - s) * x0 + s * eps, sigma, latents, config.height, config.shot)
    velocity = model.dit(batch).view_as(x0)
    return (weight * (velocity - (eps - x0)).square()).mean()


def optimizers(model: NanoModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the block matrices, AdamW for embeddings, projections in and out, modulation and norms."""
    blocks = ("dit.transformer_blocks", "dit.single_transformer_blocks")
    matrices, others = [], []
    for name, value in model.named_parameters():
        (matrices if name.startswith(blocks) and value.ndim == 2 else others).append(value)
    return [
        Muon(matrices, learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    config: FlowConfig,
    model_config: ModelConfig,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    resume: bool,
    stage: str = "flow",
    start_from: Path | None = None,
    minutes: float | None = None,
    show: Callable[[str, int, NanoModel], object] | None = None,
) -> NanoModel:
    """Train; exact on resume. Returns the EMA model in evaluation mode.

    `start_from` is the state file of another stage, whose averaged weights this one begins with. `show` is
    called with stage, step and the model holding its averages, every `show_every` steps and after the last.
    """
    torch.manual_seed(0)
    run = Run(folder, stage)
    model = NanoModel(model_config, len(tokenizer))
    if start_from is not None:
        model.load_state_dict(torch.load(start_from, weights_only=True)["ema"]["values"])
    pair = optimizers(model, config.learning_rate)
    ema = Ema(model, config.ema)
    start = run.restore(model, ema, pair) if resume else 0
    stream = LatentStream(
        encoder,
        config.height,
        config.shot,
        config.scenes,
        config.mix,
        edit_weight=config.edit_weight,
        first_seed=config.first_seed,
    )
    began, average = time.monotonic(), 0.0
    for step, bar, task in run.progress(start, config.steps):
        rate = config.learning_rate * warm_then_decay(step, config.steps, 100, config.decay_steps)
        latents = stream.batch(step)
        generator = torch.Generator().manual_seed(step)
        value = flow_loss(model, tokenize(tokenizer, latents.instructions), latents, config, generator)
        descend(value, model, pair, rate)
        ema.update(model)
        average = float(value.detach()) if step == start else 0.98 * average + 0.02 * float(value.detach())
        if step % 25 == 0:
            run.log(step, loss=value.detach(), average=average)
            bar.update(task, description=f"{stage} loss {average:.3f}")
        last = step + 1 == config.steps or (minutes is not None and time.monotonic() - began > minutes * 60)
        if last or (step + 1) % config.save_every == 0:
            run.keep(step + 1, model, ema, pair)
        if show is not None and (last or (step + 1) % config.show_every == 0):
            with ema.applied(model):
                show(stage, step + 1, model)
        if last:
            break
    model.load_state_dict(ema.values)
    return model.eval()
