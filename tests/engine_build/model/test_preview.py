"""Previews: near the decoder's own picture, made without it, in the picture's shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from engine_build.model.autoencoder import Autoencoder
from engine_build.model.preview import probe
from engine_build.model.weights import NANO
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene


@pytest.fixture
def autoencoder() -> Autoencoder:
    return Autoencoder.load(NANO, device=torch.device("cpu"), dtype=torch.float32)


def decibels(a: Image.Image, b: Image.Image) -> float:
    error = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return float(10 * np.log10(255**2 / np.square(error).mean()))


def test_a_preview_is_near_what_the_decoder_would_show(autoencoder: Autoencoder) -> None:
    pictures = [picture(one) for one in render([sample_scene(HELD_OUT_SEED + i, 3) for i in range(8)], 96).target]
    for tokens in autoencoder.encode(pictures):
        decoded, shown = autoencoder.decode(tokens), autoencoder.preview(tokens)
        coarse = decoded.resize((9, 12), Image.Resampling.BOX).resize(decoded.size, Image.Resampling.BILINEAR)
        # Better than one right colour a token.
        assert decibels(shown, decoded) > max(18.0, decibels(coarse, decoded))


def test_once_fitted_no_preview_asks_the_decoder(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.zeros(autoencoder.channels, 12, 9)
    first = autoencoder.preview_pixels(tokens)
    monkeypatch.setattr(autoencoder.vae, "decode", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(autoencoder.vae, "encode", lambda *_, **__: pytest.fail("encoded"))
    assert torch.equal(autoencoder.preview_pixels(tokens), first)
    assert autoencoder.preview(torch.zeros(autoencoder.channels, 6, 20)).size == (160, 48)
    assert autoencoder.preview(torch.zeros(autoencoder.channels, 6, 20), longest=80).size == (80, 24)


def test_probes_are_the_same_every_time_and_differ() -> None:
    first, again, other = probe(1, 72, 96), probe(1, 72, 96), probe(2, 72, 96)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert np.asarray(first).std() > 30
