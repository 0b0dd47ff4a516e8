"""Channels weigh what they show: against differences of decoded pictures, and in the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine_build.model.weights import locate
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.start_from import autoencoder_in
from engine_build.training.stages.channel_weights import channel_weights, importance
from engine_build.training.stages.matching import _squares
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(autoencoder_in(locate("nano")))


def test_importance_is_what_a_small_change_does_to_the_picture(encoder: Encoder) -> None:
    pictures = render([sample_scene(seed, 2) for seed in range(2)], 64).target
    tokens = encoder.encode(pictures)
    told = importance(encoder, pictures, probes=64)
    before = encoder.unclamped(tokens, 64, 48)
    generator = torch.Generator().manual_seed(1)
    for channel in (int(told.argmax()), int(told.argsort()[32])):
        moved = tokens.clone()
        signs = torch.randint(0, 2, tokens.shape[:2], generator=generator) * 2.0 - 1
        moved[..., channel] += 0.01 * signs  # random signs: what neighbours do to one pixel cancels on average
        change = (encoder.unclamped(moved, 64, 48) - before).square().sum()
        each = float(change) / 0.01**2 / tokens[..., 0].numel()
        assert each == pytest.approx(float(told[channel]), rel=0.3)
    assert float(told.max() / told.min()) > 100, "this autoencoder's channels are far from alike"


def test_weights_average_to_one_and_are_always_the_same(encoder: Encoder) -> None:
    half, whole = (channel_weights(encoder, power) for power in (0.5, 1.0))
    assert half is not None and whole is not None
    assert half.shape == (64,) and float(half.mean()) == pytest.approx(1) and float(whole.mean()) == pytest.approx(1)
    assert torch.equal(half, channel_weights(encoder, 0.5))
    assert float(whole.max()) > float(half.max()) > 1, "a power below 1 lies between alike and as they show"
    assert channel_weights(encoder, 0.0) is None
    assert all(parameter.grad is None for parameter in encoder.vae.parameters() if isinstance(parameter, nn.Parameter))


def test_the_loss_counts_a_channel_by_its_weight() -> None:
    error = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert _squares(error, None).tolist() == [2.5, 4.5]
    assert _squares(error, torch.tensor([0.0, 2.0])).tolist() == [4.0, 0.0]
