"""From joint to isolated references on the same weights: what it costs in quality, what it saves in time.

Joint references change with the noise and with each other, so nothing of them outlives a step. After a short
fine-tune with isolated attention their keys and values depend on the garment alone and outlive the request.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine_build.training.data.sample import Tokens
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.classifier import Classifier
from engine_build.training.measure.measures import HeldOut, Way, assess
from engine_build.training.measure.sampler import levels, references_of


@dataclass(frozen=True)
class IsolateConfig(StageConfig):
    """`report_samples` held-out scenes for the report, in `report_steps` steps; 0 writes none."""

    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    report_samples: int = 48
    report_steps: int = 16


def report(networks: dict[str, NetworkParts], config: IsolateConfig, judge: Classifier) -> dict[str, Any]:
    """Quality of each network on one held-out set, and the time of a step in each way of treating references."""
    any_parts = next(iter(networks.values()))
    held = HeldOut.make(any_parts, config.height, config.shot, config.report_samples, config.mix)
    way = Way(config.report_steps)
    quality = {name: assess(parts, held, way, judge, repeats=2, retrieval=False) for name, parts in networks.items()}
    return {
        "quality": quality,
        "milliseconds_a_step": {name: step_times(parts, held.samples[:8]) for name, parts in networks.items()},
        "reference_tokens": sum(len(r) for s in held.samples[:8] for r in s.references),
        "target_tokens": sum(len(s.target) for s in held.samples[:8]),
        "config": {"samples": config.report_samples, "steps": config.report_steps},
    }


@torch.no_grad()
def step_times(parts: NetworkParts, samples: Sequence[Tokens], repeats: int = 7) -> dict[str, float]:
    """Median milliseconds of one evaluation of a batch: references encoded with it, and, where possible, before it."""
    batch = conditioned(parts, samples)
    now = levels(parts.schedule, batch, 4)[1]
    state = batch.at(torch.zeros_like(batch.target), now)
    kv = references_of(parts.dit, batch)
    times = {"references every step": _median(lambda: parts.dit(state), repeats)}
    if kv is not None:
        times["references kept"] = _median(lambda: parts.dit(state, kv), repeats)
        times["references alone, once"] = _median(lambda: references_of(parts.dit, batch), repeats)
    return {name: round(1000 * value, 3) for name, value in times.items()}


def with_mode(parts: NetworkParts, mode: str) -> NetworkParts:
    """The same weights with another reference attention, as a network of its own."""
    network = copy.deepcopy(parts.network)
    network.dit.config = replace(network.dit.config, reference_attention=mode)
    return replace(parts, network=network)


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]
