"""Figures beside photographs are the same on a GPU as on a CPU, to the GPU's own rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from noise_pictures import noise_folder
from tiny_networks import backbone_file, clip_folder, dino_folder, inception_file

from engine_build.judging.pictures import upright
from engine_build.judging.similarity.inception import Inception
from engine_build.judging.similarity.likeness import Likeness
from engine_build.judging.similarity.measure import Folders, Tools, measure
from engine_build.judging.similarity.perceptual import Lpips

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_gpu_measures_what_a_cpu_measures(tmp_path: Path) -> None:
    truths, results = noise_folder(tmp_path / "a", 20, 1), noise_folder(tmp_path / "b", 20, 2, 60, 200)
    inception, backbone = inception_file(tmp_path), backbone_file(tmp_path)
    dino, clip = dino_folder(tmp_path / "dino"), clip_folder(tmp_path / "clip")
    pair = upright(truths / "00.png"), upright(results / "00.png")
    rows, alike = [], []
    for device in ("cpu", "cuda"):
        tools = Tools(Inception(inception, device), Lpips(backbone, device=device))
        rows.append(measure(Folders(truths, results), tools).rows[0])
        models = Likeness(dino, "dino", device), Likeness(clip, "clip", device)
        alike.append([model.cosine(*pair) for model in models])
    for name in ("fid", "kid", "ssim", "lpips"):
        assert getattr(rows[1], name) == pytest.approx(getattr(rows[0], name), rel=1e-2)
    assert alike[1] == pytest.approx(alike[0], abs=1e-3)
