"""Attention told where to look: a cross-entropy between some heads' attention and the world's own correspondences.

The world knows which point of which reference a target's pixel shows (`world.correspondence`); counted by
tokens that is a distribution over reference tokens for each target token. Some heads of some middle layers are asked to
attend so. It changes neither the network's shape nor what it costs to serve. Leffa (arXiv 2412.08486) supervises
attention by a flow loss for the same reason; the cross-entropy, and its fading away before the end, are ours.

Letters: N samples, d draws each, L target tokens, P reference tokens, S own keys, h heads that are told, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.training.data.sample import Tokens
from engine_build.training.loop.learner import StageConfig
from kernels import Segments

_Keys = tuple[Tensor, Segments]


@dataclass
class Watched:
    """What the told heads of the told layers saw in one forward: queries and keys, with gradients."""

    layers: tuple[int, ...]
    heads: int
    seen: list[tuple[Tensor, _Keys, _Keys | None]] = field(default_factory=list)


def attention_weight(config: StageConfig, step: int) -> float:
    """The weight of the attention's loss at a step: the table's, falling to 0 over the last `attention_fade`."""
    fade = config.attention_fade * config.steps
    return config.attention_weight * (1.0 if fade <= 0 else min(1.0, (config.steps - step) / fade))


def velocity_and_attention(dit: MMDiT, batch: PackedBatch, watched: Watched) -> Tensor:
    """`dit(batch)`, noting in `watched` what its layers, counted through both kinds of block, attend with."""
    constants, plain = dit.prepare(batch), dit.kernels
    calls = 0

    def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, **more: Any) -> Tensor:
        nonlocal calls
        if calls in watched.layers:
            some = slice(0, watched.heads)
            prefix = more.get("prefix_k")
            shared = None if prefix is None else (prefix[:, some], more["prefix_segments"])
            asking = constants.targets(q) if len(q) != batch.target_segments.total else q
            watched.seen.append((asking[:, some], (k[:, some], more.get("key_segments") or segments), shared))
        calls += 1
        return plain.attention(q, k, v, segments, **more)

    dit.kernels = replace(plain, attention=attention)
    try:
        return dit.velocity(constants, batch.target, batch.sigma)
    finally:
        dit.kernels = plain


def correspondence_loss(watched: Watched, samples: Sequence[Tokens], draws: int) -> Tensor:
    """Mean cross-entropy in nats, over tokens by how much of them a reference shows, heads, layers and samples.

    Samples that know no correspondence, and references that are not shown to the network, count for nothing.
    """
    losses, weights = [], []
    for queries, (keys, segments), shared in watched.seen:
        starts = 0
        for i, sample in enumerate(samples):
            length = len(sample.target)
            q = queries[starts * draws : (starts + length) * draws].unflatten(0, (draws, length))  # (d, L, h, E)
            starts += length
            if sample.shown is None or not sample.references:
                continue
            shown = sample.shown.to(q.device)  # (L, P)
            own = _of(keys, segments, range(i * draws, (i + 1) * draws))  # (d, S, h, E)
            if shared is not None:
                before = _of(*shared, range(i, i + 1)).expand(draws, -1, -1, -1)  # (d, P, h, E)
                own = torch.cat([before, own], 1)
                place = slice(0, shown.shape[1])
            else:  # joint: references lie behind text and target
                place = slice(own.shape[1] - shown.shape[1], None)
            logits = torch.einsum("dlhe,dshe->dhls", q, own).float() / q.shape[-1] ** 0.5
            logp = logits.log_softmax(-1)[..., place]  # (d, h, L, P)
            losses.append(-(shown * logp).sum() / (draws * logp.shape[1]))
            weights.append(shown.sum())
    if not losses:
        return torch.zeros((), device=watched.seen[0][0].device if watched.seen else None)
    return torch.stack(losses).sum() / torch.stack(weights).sum().clamp_min(1.0)


def _of(tokens: Tensor, segments: Segments, which: range) -> Tensor:
    """Consecutive sequences of one length as (sequences, length, ...)."""
    first, last = segments.offsets[which.start], segments.offsets[which.stop]
    return tokens[first:last].unflatten(0, (len(which), -1))
