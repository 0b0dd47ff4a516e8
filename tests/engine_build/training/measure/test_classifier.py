"""What the judge is shown and asked: crops round a garment, indices of its category, pattern and colour."""

from __future__ import annotations

from random import Random

import torch

from engine_build.training.measure import classifier
from engine_build.world.scenes import sample_garment
from engine_build.world.specs import COLOURS


def test_crops_centre_the_garment_and_labels_name_it() -> None:
    x = torch.zeros(1, 3, 96, 72)
    mask = torch.zeros(1, 96, 72, dtype=torch.bool)
    mask[0, 60:70, 10:20] = True
    x[:, 0, 60:70, 10:20] = 1
    [crop] = classifier.crops(x, mask)
    assert crop.shape == (3, 32, 32)
    assert float(crop[0, 8:24, 8:24].min()) > 0.99 and float(crop[0, 0].max()) < 0.01
    assert crop[0].flip(0).allclose(crop[0], atol=1e-4) and crop[0].flip(1).allclose(crop[0], atol=1e-4)
    spec = sample_garment(Random(0), "bags")
    category, _, colour = classifier.labels([spec])[0].tolist()
    assert (category, COLOURS[colour]) == (6, spec.colour)
