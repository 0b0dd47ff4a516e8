"""Train the small autoencoder of a nano checkpoint on the procedural world.

The class is diffusers' AutoencoderKLFlux2 with three narrow blocks (4 times down, 16 latent channels, 2x2
patchify: 64 numbers for each 8x8 px token). Every residual block starts as the identity (its second convolution
is zero), which makes the first thousand steps several times more productive. The loss is the mean squared error
with a small gradient term that keeps edges, noise on the latents so that the decoder forgives the denoiser's
errors, and a weak pull of the latents towards unit scale.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from engine_build.training.run import Ema, Run, psnr, warm_then_decay
from engine_build.training.world import HELD_OUT_SEED, sample_scene
from engine_build.training.world_render import render


@dataclass(frozen=True)
class VaeConfig:
    """Widths, steps and optimizer of the autoencoder stage; sizes in pixels."""

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 16
    steps: int = 6000
    batch: int = 12
    crop: int = 48
    learning_rate: float = 3e-3
    latent_noise: float = 0.03
    heights: tuple[int, ...] = (96, 96, 128)
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


def crops(step: int, config: VaeConfig, held_out: bool = False) -> Tensor:
    """(batch, 3, crop, crop) in [-1, 1]: crops of persons, targets and garment shots of scenes of this step."""
    generator = torch.Generator().manual_seed(step)
    count = max(1, config.batch // 4)
    first = (HELD_OUT_SEED if held_out else 500_000_000) + step * count
    height = config.heights[step % len(config.heights)]
    scenes = [sample_scene(first + i, None) for i in range(count)]
    pictures = render(scenes, height, shot_size=config.crop)
    shots = [pictures.garments[i, int(torch.randint(int(n), (1,), generator=generator))] for i, n in enumerate(pictures.counts)]
    people = torch.cat([pictures.person, pictures.target])
    pieces = list(shots)
    while len(pieces) < config.batch:
        image = people[len(pieces) % len(people)]
        top = int(torch.randint(image.shape[1] - config.crop + 1, (1,), generator=generator))
        left = int(torch.randint(image.shape[2] - config.crop + 1, (1,), generator=generator))
        pieces.append(image[:, top : top + config.crop, left : left + config.crop])
    return torch.stack(pieces) * 2 - 1


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical finite differences."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def loss(vae: AutoencoderKLFlux2, x: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Training loss and reconstruction of (B, 3, H, W) pictures in [-1, 1]."""
    z = vae.encode(x).latent_dist.mean
    y = vae.decode(z + noise * torch.randn_like(z)).sample
    gradient = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
    pull = (z.square().mean() - 1).square()
    return (y - x).square().mean() + 0.02 * gradient + 1e-3 * pull, y


def train(config: VaeConfig, folder: Path, resume: bool, minutes: float | None = None) -> AutoencoderKLFlux2:
    """Train, resume-safe; afterwards the BatchNorm statistics of the patchified latents are measured."""
    torch.manual_seed(0)
    run = Run(folder, "vae")
    vae = build(config)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    ema, start = Ema(vae, 0.998), 0
    if resume and (state := run.load()) is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        start = state["step"]
        torch.set_rng_state(state["rng"])
    vae.train()
    began = time.monotonic()
    for step, bar, task in run.progress(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_then_decay(step, config.steps, 50, config.steps // 3)
        x = crops(step, config)
        value, y = loss(vae, x, config.latent_noise)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.update(vae)
        if step % 50 == 0:
            quality = psnr(y.detach() / 2, x / 2)
            run.log(step, loss=value, psnr=quality)
            bar.update(task, description=f"vae {quality:.1f} dB")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            run.save(
                {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.state_dict(), "step": step + 1}
            )
        if minutes is not None and time.monotonic() - began > minutes * 60:
            break
    vae.load_state_dict(ema.values)
    measure_statistics(vae, config)
    return vae.eval()


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLFlux2, config: VaeConfig, batches: int = 40) -> None:
    """Set `bn`'s running mean and variance (of patchified latents) as diffusers' pipelines expect them."""
    vae.eval()
    rows = []
    for step in range(batches):
        z = vae.encode(crops(10_000_000 + step, config)).latent_dist.mode()
        rows.append(torch.nn.functional.pixel_unshuffle(z, 2).transpose(0, 1).flatten(1))
    flat = torch.cat(rows, 1)
    vae.bn.running_mean.copy_(flat.mean(1))
    vae.bn.running_var.copy_(flat.var(1))
