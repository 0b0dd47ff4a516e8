"""The autoencoder's fast path: fused norms and slices of memory change no picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_pipeline

from engine_build.model import autoencoder
from engine_build.model.autoencoder import Autoencoder, NormSilu, fuse_norms
from kernels import select


def photos(n: int) -> list[Image.Image]:
    drawn = np.random.default_rng(0).integers(0, 256, (n, 40, 24, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in drawn]


def test_fused_norms_compute_the_same() -> None:
    plain, fused = (Autoencoder(tiny_pipeline(1).vae) for _ in range(2))
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in fused.vae.modules())
    count = fuse_norms(fused.vae, select("torch"))
    assert count == sum(isinstance(module, NormSilu) for module in fused.vae.modules())
    assert norms - count == 2  # of the two attention blocks, which no activation follows
    tokens, again = plain.encode(photos(2)), fused.encode(photos(2))
    torch.testing.assert_close(again, tokens, atol=1e-5, rtol=1e-5)
    difference = np.asarray(plain.decode(tokens[0]), dtype=int) - np.asarray(fused.decode(tokens[0]), dtype=int)
    assert np.abs(difference).max() <= 1
    fused.vae.decoder.conv_norm_out.norm.weight.data.mul_(3)
    assert np.asarray(fused.decode(tokens[0])).tolist() != np.asarray(plain.decode(tokens[0])).tolist()


def test_many_pictures_are_encoded_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Autoencoder(tiny_pipeline(1).vae)
    together, calls = one.encode(photos(5)), []
    encode = one.vae.encode
    monkeypatch.setattr(one.vae, "encode", lambda x: calls.append(len(x)) or encode(x))
    monkeypatch.setattr(autoencoder, "ENCODE_PIXELS", 2 * 40 * 24 + 1)
    torch.testing.assert_close(one.encode(photos(5)), together, atol=1e-5, rtol=1e-5)
    assert calls == [2, 2, 1]
