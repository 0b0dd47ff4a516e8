"""Train the small autoencoder of a nano checkpoint on the procedural world.

The class is diffusers' AutoencoderKLFlux2 with three narrow blocks (4 times down, 16 latent channels, 2x2
patchify: 64 numbers for each 8x8 px token). Every residual block starts as the identity (its second
convolution is zero), which makes the first thousand steps several times more productive. The loss is the mean
squared error with a small gradient term that keeps edges, noise on the latents so that the decoder forgives
the denoiser's errors, and a weak pull of the latents towards unit scale.

Crops train fastest, but the group norms of whole pictures see other statistics, and heads are small: a second
stage on whole pictures, with more weight on faces and hair, starts from the first one's average.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.loop.learner import autocast
from engine_build.training.loop.muon import Muon
from engine_build.training.loop.run import Ema, Run, descend, psnr, warm_then_decay
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import FACE, HAIR, REGION_OF

POOL_STEPS = 16


@dataclass(frozen=True)
class VaeConfig:
    """Widths, steps and optimizer of one autoencoder stage; sizes in pixels, `crop` 0 for whole pictures.

    Pixels of faces and hair weigh 1 + `head_weight`, of garments 1 + `cloth_weight`, of product shots half as much.
    `bf16` runs under autocast.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 16
    steps: int = 6000
    batch: int = 8
    crop: int = 32
    learning_rate: float = 1e-2
    latent_noise: float = 0.03
    heights: tuple[int, ...] = (96, 96, 128)
    shot: int = 48
    head_weight: float = 0.0
    cloth_weight: float = 0.0
    bf16: bool = False
    first_seed: int = 500_000_000
    save_every: int = 500


def build(config: VaeConfig) -> AutoencoderKLFlux2:
    """A new autoencoder whose residual blocks are the identity."""
    vae = AutoencoderKLFlux2(
        block_out_channels=tuple(config.channels),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
    )
    for module in vae.modules():
        if module.__class__.__name__ == "ResnetBlock2D":
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    return vae


def batch(step: int, config: VaeConfig) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) in [-1, 1] and pixel weights (B, 1, H, W) of mean about 1, a function of the step.

    People and garment shots: mixed crops, or whole pictures of one kind with every fourth step for shots.
    """
    generator = torch.Generator().manual_seed(step)
    people, weights, shots = pictures(step // POOL_STEPS, config)
    plain = torch.full_like(shots[:, :1], 1 + config.cloth_weight / 2)
    if not config.crop:
        images, chosen = (shots, plain) if step % 4 == 0 else (people, weights)
        rows = torch.randperm(len(images), generator=generator)[: config.batch * (4 if step % 4 == 0 else 1)]
        return images[rows] * 2 - 1, chosen[rows]
    pieces, kept = [], []
    for i in range(config.batch):
        images, chosen = (shots, plain) if i % 4 == 0 else (people, weights)
        row = int(torch.randint(len(images), (1,), generator=generator))
        spare = (side - config.crop + 1 for side in images.shape[2:])
        top, left = (int(torch.randint(most, (1,), generator=generator)) for most in spare)
        place = (..., slice(top, top + config.crop), slice(left, left + config.crop))
        pieces.append(images[row][place])
        kept.append(chosen[row][place])
    return torch.stack(pieces) * 2 - 1, torch.stack(kept)


@lru_cache(maxsize=1)
def pictures(pool: int, config: VaeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """One pool of scenes: persons and targets (2N, 3, H, W) in [0, 1], their pixel weights (2N, 1, H, W) and
    garment shots (G, 3, S, S) in [0, 1].
    """
    height = config.heights[pool % len(config.heights)]
    scenes = [sample_scene(config.first_seed + pool * 12 + i, None) for i in range(12)]
    drawn = render(scenes, height, config.shot)
    shots = torch.cat([drawn.garments[i, : int(n)] for i, n in enumerate(drawn.counts)])
    regions = torch.cat([drawn.person_regions, drawn.target_regions])[:, None]
    heads = torch.isin(regions, torch.tensor([FACE, HAIR], dtype=regions.dtype))
    cloth = torch.isin(regions, torch.tensor(list(REGION_OF.values()), dtype=regions.dtype))
    weights = 1 + config.head_weight * heads + config.cloth_weight * cloth
    return torch.cat([drawn.person, drawn.target]), weights, shots


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical finite differences."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def loss(
    vae: AutoencoderKLFlux2, x: Tensor, weight: Tensor, noise: float, bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Training loss and reconstruction of (B, 3, H, W) pictures in [-1, 1]; weight is (B, 1, H, W)."""
    with autocast(x.device, bf16):
        z = vae.encode(x).latent_dist.mean
        y = vae.decode(z + noise * torch.randn_like(z)).sample
    y, z = y.float(), z.float()
    gradient = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
    pull = (z.square().mean() - 1).square()
    return (weight * (y - x).square()).mean() + 0.02 * gradient + 1e-3 * pull, y


def optimizers(vae: AutoencoderKLFlux2, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the inner convolutions, AdamW for the ends, norms and biases."""
    ends = ("conv_in", "conv_out", "quant")
    inner, others = [], []
    for name, value in vae.named_parameters():
        (inner if value.ndim == 4 and not any(end in name for end in ends) else others).append(value)
    return [
        Muon(inner, learning_rate),
        torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def train(
    config: VaeConfig,
    folder: Path,
    resume: bool,
    stage: str = "vae",
    start_from: Path | None = None,
    minutes: float | None = None,
) -> AutoencoderKLFlux2:
    """Train, resume-safe; afterwards the BatchNorm statistics of the patchified latents are measured.

    `start_from` is the state file of an earlier stage, whose averaged weights this one begins with.
    """
    torch.manual_seed(0)
    run = Run(folder, stage)
    vae = build(config)
    if start_from is not None:
        vae.load_state_dict(torch.load(start_from, weights_only=True)["ema"]["values"])
    pair = optimizers(vae, config.learning_rate)
    ema = Ema(vae, 0.998)
    start = run.restore(vae, ema, pair) if resume else 0
    vae.train()
    began = time.monotonic()
    for step, bar, task in run.progress(start, config.steps):
        rate = config.learning_rate * warm_then_decay(step, config.steps, 50, config.steps // 3)
        x, weight = batch(step, config)
        value, y = loss(vae, x, weight, config.latent_noise, config.bf16)
        descend(value, vae, pair, rate)
        ema.update(vae)
        if step % 50 == 0:
            quality = psnr(y.detach() / 2, x / 2)
            run.log(step, loss=value.detach(), psnr=quality)
            bar.update(task, description=f"{stage} {quality:.1f} dB")
        last = step + 1 == config.steps or (minutes is not None and time.monotonic() - began > minutes * 60)
        if last or (step + 1) % config.save_every == 0:
            run.keep(step + 1, vae, ema, pair)
        if last:
            break
    vae.load_state_dict(ema.values)
    measure_statistics(vae, config)
    return vae.eval()


def train_stages(configs: Sequence[VaeConfig], folder: Path, resume: bool) -> AutoencoderKLFlux2:
    """Train vae, vae2 … in order, each from the averages of the one before; they share one shape.

    Raises RequestError for sizes that do not divide into whole tokens.
    """
    for config in configs:
        side = 2 ** len(config.channels)
        if config.crop:
            check_squares("vae", "crop", (config.crop,), side)
        else:
            check_heights("vae", config.heights, side)
            check_squares("vae", "shot", (config.shot,), side)
    start: Path | None = None
    for number, config in enumerate(configs, start=1):
        stage = "vae" if number == 1 else f"vae{number}"
        trained = train(config, folder, resume, stage, start)
        start = folder / f"{stage}.pt"
    return trained


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLFlux2, config: VaeConfig, batches: int = 40) -> None:
    """Set `bn`'s running mean and variance (of patchified latents) as diffusers' pipelines expect them."""
    vae.eval()
    rows = []
    for step in range(batches):
        z = vae.encode(batch(10_000_000 + step, config)[0]).latent_dist.mode()
        rows.append(torch.nn.functional.pixel_unshuffle(z, 2).transpose(0, 1).flatten(1))
    flat = torch.cat(rows, 1)
    vae.bn.running_mean.copy_(flat.mean(1))
    vae.bn.running_var.copy_(flat.var(1))
