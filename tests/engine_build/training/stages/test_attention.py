"""Supervised attention: its distributions, its loss against a hand computation, and that it changes no velocity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine_build.config import PRESETS
from engine_build.model.mmdit import MMDiT
from engine_build.training.data.packed_batch import noised, pack_samples
from engine_build.training.data.sample import Sample, Tokens, shown_by
from engine_build.training.loop.learner import StageConfig
from engine_build.training.stages.attention import (
    Watched,
    attention_weight,
    correspondence_loss,
    velocity_and_attention,
)

SHAPE = replace(
    PRESETS["nano"], num_layers=1, num_single_layers=3, num_attention_heads=2, attention_head_dim=16,
    axes_dims_rope=(4, 4, 4, 4), in_channels=8, joint_attention_dim=12,
)  # fmt: skip


def sample(seed: int, target: tuple[int, int], *references: tuple[int, int]) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    sizes = [a * b for a, b in references]
    shown = torch.rand(target[0] * target[1], sum(sizes), generator=g)
    return Tokens(
        target=torch.randn(target[0] * target[1], 8, generator=g),
        grid=target,
        references=tuple(torch.randn(size, 8, generator=g) for size in sizes),
        grids=references,
        categories=("person",) * len(references),
        instruction="",
        share=torch.ones(target[0] * target[1]),
        shown=shown / shown.sum(1, keepdim=True) * torch.rand(len(shown), 1, generator=g),
    )


def network(mode: str) -> MMDiT:
    torch.manual_seed(1)
    model = MMDiT(replace(SHAPE, reference_attention=mode))
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model


@pytest.mark.parametrize(("mode", "draws"), [("isolated", 1), ("isolated", 2), ("shared", 2), ("joint", 1)])
def test_the_loss_is_the_cross_entropy_of_the_model_s_own_attention(mode: str, draws: int) -> None:
    samples = [sample(0, (2, 3), (2, 2), (1, 2)), sample(1, (3, 3), (2, 3))]
    words = [torch.randn(4, 12), torch.randn(2, 12)]
    model = network(mode)
    packed = pack_samples(samples, words, draws, joint=mode == "joint")
    batch = noised(packed, packed.target, torch.randn_like(packed.target), torch.full((len(packed),), 0.6))
    watched = Watched(layers=(0, 2, 3), heads=1)
    velocity = velocity_and_attention(model, batch, watched)
    torch.testing.assert_close(velocity, model(batch))
    got = correspondence_loss(watched, samples, draws)
    losses = []
    for layer in range(3):
        queries, (keys, segments), shared = watched.seen[layer]
        position = 0
        for i, one in enumerate(samples):
            for draw in range(draws):
                n = i * draws + draw
                q = queries[position : position + len(one.target), 0]
                position += len(one.target)
                own = keys[segments.offsets[n] : segments.offsets[n + 1], 0]
                width = one.shown.shape[1]
                if shared is not None:
                    own = torch.cat([shared[0][shared[1].offsets[i] : shared[1].offsets[i + 1], 0], own])
                probability = (q @ own.T / 4.0).softmax(1)
                probability = probability[:, :width] if shared is not None else probability[:, -width:]
                losses.append(-(one.shown * probability.log()).sum() / draws)
    mass = sum(float(one.shown.sum()) for one in samples) * 3
    torch.testing.assert_close(got, torch.stack(losses).sum() / mass, atol=1e-5, rtol=1e-5)
    got.backward()
    assert model.single_transformer_blocks[1].attn.to_qkv_mlp_proj.weight.grad.abs().sum() > 0


def test_samples_that_know_nothing_count_for_nothing() -> None:
    known, unknown = sample(0, (2, 2), (2, 2)), replace(sample(1, (2, 2), (2, 2)), shown=None)
    model = network("isolated")
    losses = []
    for samples in ([known], [known, unknown]):
        packed = pack_samples(samples, [torch.ones(2, 12)] * len(samples))
        watched = Watched((1,), 2)
        velocity_and_attention(model, packed.at(packed.target, torch.full((len(packed),), 0.5)), watched)
        losses.append(float(correspondence_loss(watched, samples, 1).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_tokens_are_counted_pixel_by_pixel() -> None:
    sources = torch.tensor([[0, 0, -1, 1], [0, 0, -1, 1]], dtype=torch.int8)
    places = torch.zeros(2, 4, 2)
    places[..., 0] = torch.tensor([0.1, 0.6, 0.0, 0.9])
    places[1, :, 1] = 0.9
    picture = torch.zeros(3, 2, 4)
    made = Sample((picture, picture), ("person", "tops"), picture, "", sources=sources, places=places)
    shown = shown_by(made, (1, 2), ((1, 2), (2, 2)))
    assert shown is not None
    assert shown.tolist() == [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0.25, 0, 0.25]]
    assert shown_by(replace(made, sources=None), (1, 2), ((1, 2), (2, 2))) is None


def test_the_weight_fades_over_the_last_steps() -> None:
    table = StageConfig(steps=100, attention_weight=0.2, attention_fade=0.3)
    assert [round(attention_weight(table, step), 3) for step in (0, 69, 70, 85, 100)] == [0.2, 0.2, 0.2, 0.1, 0.0]
