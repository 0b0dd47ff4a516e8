"""How many samples a step takes where the file says `batch = 0`: as many as the accelerator's memory holds.

The peak of two trial steps gives the bytes of one more sample; a share of the memory stays free for longer words and
more garments than the trials had. The number is written beside the run and read when it goes on: a stage whose batches
changed in the middle would see some samples twice and others never.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch

from engine_build.training.data.sample import Source, encode
from engine_build.training.loop.learner import Learner, StageConfig, autocast
from engine_build.training.loop.sources import on_device
from engine_build.training.loop.start_from import NetworkParts
from engine_build.training.stages.matching import chance, velocity_loss
from engine_build.training.stages.stage_run import StageRun

ON_A_CPU = 8
MOST = 512
STEP = 8
"""A batch is a multiple of this."""
SHARE = 0.8
"""Of the memory, what trial steps may promise."""
BATCHES_A_CHUNK = 4


def largest(peak: Callable[[int], int], room: int, most: int = MOST) -> int:
    """The largest multiple of STEP up to `most` whose peak of bytes stays within `room`, the peak taken as a line.

    At least STEP: whether that fits the first step tells.
    """
    few, more = peak(STEP), peak(2 * STEP)
    each = max(1, (more - few) // STEP)
    fits = STEP + (room - few) // each
    return max(STEP, min(most, fits // STEP * STEP))


def with_batch(stage_run: StageRun, parts: NetworkParts, learner: Learner, source: Source) -> StageRun:
    """The call with a batch in the place of 0, and a chunk of BATCHES_A_CHUNK of them."""
    c: StageConfig = stage_run.config
    if c.batch:
        return stage_run
    path = stage_run.setup.out / f"{stage_run.stage}.batch.json"
    if stage_run.resume and path.exists():
        batch = int(json.loads(path.read_text(encoding="utf-8"))["batch"])
    else:
        batch = _measured(parts, learner, source) if parts.device.type == "cuda" else ON_A_CPU
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"batch": batch}) + "\n", encoding="utf-8")
    return replace(stage_run, config=replace(c, batch=batch, chunk=BATCHES_A_CHUNK * batch))


def _measured(parts: NetworkParts, learner: Learner, source: Source) -> int:
    c = learner.config
    samples = encode(parts.encoder, on_device(source, parts.device).draw(range(c.first_seed, c.first_seed + 2 * STEP)))

    def peak(count: int) -> int:
        torch.cuda.reset_peak_memory_stats(parts.device)
        some = samples[:count]
        with autocast(parts.device, c.bf16):
            loss, _ = velocity_loss(parts, some, chance(some, 0, c, learner.place), c.draws, c.edit_weight)
        loss.backward()
        learner.module.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated(parts.device)

    room = int(SHARE * torch.cuda.get_device_properties(parts.device).total_memory)
    return largest(peak, room)
