"""Pictures as tokens from a network in training: Euler steps over a packed batch, with guidance or without.

The same arithmetic as the engine's, kept apart from it because training needs batches of conditions, networks
that change under way and guidance. References that do not depend on the noise are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.runtime.sampling import Schedule
from engine_build.training.data.packed_batch import per_token
from engine_build.training.data.sample import Tokens


def references_of(dit: MMDiT, batch: PackedBatch) -> ReferenceKV | None:
    """Keys and values of the references, where they depend on nothing that changes from step to step."""
    if dit.config.reference_attention == "joint" or not batch.reference_segments.total:
        return None
    return dit.encode_references(batch)


def levels(schedule: Schedule, batch: PackedBatch, steps: int) -> Tensor:
    """(steps + 1, M) noise levels from 1 to 0, each target by its own number of tokens."""
    by_length = {n: schedule.sigmas(n, steps) for n in set(batch.target_segments.lengths)}
    rows = torch.stack([by_length[n] for n in batch.target_segments.lengths], 1)
    return rows.to(batch.target.device)


def guided(conditioned: Tensor, unconditioned: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance of velocities (T, C): `v0 + w (vc - v0)`, w = 1 the condition alone, or (T, 1)."""
    return unconditioned + guidance * (conditioned - unconditioned)


def strength(samples: Sequence[Tokens], guidance: float, focus: bool, draws: int = 1) -> float | Tensor:
    """`guidance` for every token, or focused: (T, 1), 1 where more than half of a token's pixels should stay."""
    if not focus:
        return guidance
    concerned = torch.cat([sample.share for sample in samples for _ in range(draws)]) > 0.5
    return 1 + (guidance - 1) * concerned.float()[:, None]


@torch.no_grad()
def draw(
    dit: MMDiT,
    batch: PackedBatch,
    eps: Tensor,
    schedule: Schedule,
    steps: int,
    guidance: float | Tensor = 1.0,
    null: PackedBatch | None = None,
    encode_once: bool = True,
) -> Tensor:
    """Clean tokens (T, C) from noise (T, C) in `steps` Euler steps; with a guidance other than 1, two passes a step.

    A guidance may differ from token to token, (T, 1). `null` holds the same targets without their conditions.
    Raises ValueError for guidance without it.
    """
    wanted = isinstance(guidance, Tensor) or guidance != 1.0
    if wanted and null is None:
        raise ValueError("guidance needs the unconditioned batch")
    kv = references_of(dit, batch) if encode_once else None
    null_kv = references_of(dit, null) if null is not None and encode_once else None
    x = eps
    for now, then in pairwise(levels(schedule, batch, steps)):
        velocity = dit(batch.at(x, now), kv).float()
        if null is not None and wanted:
            velocity = guided(velocity, dit(null.at(x, now), null_kv).float(), guidance)
        x = x + per_token(batch, then - now) * velocity
    return x
