"""What training can start from again: the autoencoder of the next picture, and what it allows at best."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine_build import training
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.start_from import autoencoder_in
from engine_build.world.render import render
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import BACKGROUND, FACE, HAIR, REGION_OF

START = Path(training.__file__).parent / "starts" / "nano-192"


def decibels(error: Tensor, where: Tensor) -> float:
    return float(-10 * error[where].mean().log10())


def test_the_autoencoder_s_ceiling_is_above_what_its_pictures_have_to_reach() -> None:
    encoder = Encoder(autoencoder_in(START))
    drawn = render([sample_scene(HELD_OUT_SEED + i, 1 + i % 6) for i in range(12)], 192)
    tokens = encoder.encode(drawn.target)
    assert tokens.shape == (12, 108, 128)
    error = (encoder.decode(tokens, 192, 144) - drawn.target).square().mean(1)
    regions = drawn.target_regions
    assert decibels(error, torch.isin(regions, torch.tensor(list(REGION_OF.values())))) > 26
    assert decibels(error, regions == BACKGROUND) > 34
    assert decibels(error, (regions == FACE) | (regions == HAIR)) > 26
