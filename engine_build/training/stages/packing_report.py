"""What packing saves in training: samples per second of mixed batches packed, and padded to their longest.

Both train the same network on the same samples; padded ones carry blank tokens to the largest picture and the
largest number of references of the batch, which is what a batch without packing has to do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine_build.training.data.packed_batch import pack_samples, padded
from engine_build.training.data.sample import Tokens, encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.learner import StageConfig, autocast
from engine_build.training.loop.start_from import NetworkParts
from engine_build.training.stages.matching import Draw, velocity_loss


@dataclass(frozen=True)
class PackingConfig(StageConfig):
    """Batches of `batch` samples with 1 to 6 garments as in `mix`, at each of `heights` in turn; `repeats` of them."""

    heights: tuple[int, ...] = (64,)
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    repeats: int = 6


def measure(parts: NetworkParts, config: PackingConfig) -> dict[str, object]:
    """Samples per second, forward and backward, both ways in turn; tokens of each; the ratio of medians."""
    seconds: dict[str, list[float]] = {"packed": [], "padded": []}
    tokens = {"packed": 0, "padded": 0}
    for repeat in range(config.repeats + 1):
        samples = _samples(parts, config, repeat)
        for name, some in (("packed", samples), ("padded", padded(samples))):
            spent, count = _step(parts, some, config, repeat)
            if repeat:
                seconds[name].append(spent)
                tokens[name] += count
    rates = {name: config.batch * config.draws / sorted(s)[len(s) // 2] for name, s in seconds.items()}
    return {
        "samples_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "speedup": round(rates["packed"] / rates["padded"], 3),
        "tokens": tokens,
        "batch": config.batch,
        "draws": config.draws,
        "heights": list(config.heights),
        "shot": config.shot,
        "mix": list(config.mix),
        "repeats": config.repeats,
        "device": str(parts.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _samples(parts: NetworkParts, config: PackingConfig, repeat: int) -> list[Tokens]:
    samples: list[Tokens] = []
    for i, height in enumerate(config.heights):
        source = WorldTryOns(height, config.shot, config.mix)
        mine = [n for n in range(config.batch) if n % len(config.heights) == i]
        samples += encode(parts.encoder, source.draw([repeat * config.batch + n for n in mine]))
    return samples


def _step(parts: NetworkParts, samples: Sequence[Tokens], config: PackingConfig, seed: int) -> tuple[float, int]:
    generator = torch.Generator().manual_seed(seed)
    total = sum(len(sample.target) for sample in samples) * config.draws
    eps = torch.randn(total, samples[0].target.shape[1], generator=generator).to(parts.device)
    sigma = torch.rand(len(samples) * config.draws, generator=generator).to(parts.device)
    drawn = Draw(eps, sigma, [False] * len(samples))
    began = time.perf_counter()
    with autocast(parts.device, config.bf16):
        loss, _ = velocity_loss(parts, samples, drawn, config.draws, config.edit_weight)
    loss.backward()
    if parts.device.type == "cuda":
        torch.cuda.synchronize()
    spent = time.perf_counter() - began
    parts.network.zero_grad(set_to_none=True)
    with torch.no_grad():
        text = parts.encode_instructions([sample.instruction for sample in samples])
        joint = parts.dit.config.reference_attention == "joint"
        return spent, pack_samples(samples, text, config.draws, joint).tokens
