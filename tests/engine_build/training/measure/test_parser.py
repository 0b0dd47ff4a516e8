"""Training of the parser that ships: what it is shown, what counts, and a file that the provider reads."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from engine_build.regions.world import HEIGHT, WorldRegions
from engine_build.support.regions import LABEL, NAMES
from engine_build.training.measure import parser


def test_few_steps_leave_a_file_that_the_provider_reads_and_more_go_on_from_it(tmp_path: Path) -> None:
    parser.train(tmp_path / "first", steps=2, scenes=1)
    model = parser.train(tmp_path / "second", steps=2, scenes=1, start=tmp_path / "first" / parser.FILE)
    file = tmp_path / "second" / parser.FILE
    assert file.stat().st_size <= 300_000
    assert WorldRegions(file)(Image.new("RGB", (60, 80))).labels.shape == (HEIGHT, 96)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_rare_regions_count_more_and_scenes_of_a_second_run_are_others() -> None:
    pictures, parts = next(parser.batches(2))
    assert pictures.shape == (4, 3, HEIGHT, 96) and parts.shape == (4, HEIGHT, 96)
    weight = parser.weights_of(parts)
    assert weight.shape == (len(NAMES),) and weight[LABEL["hands"]] > 2 * weight[LABEL["background"]]
    again, _ = next(parser.batches(2, skipped=1_000_000))
    assert not torch.equal(again, pictures)


def test_blurring_keeps_size_and_light() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, HEIGHT, 96)
    soft = parser.blurred(pictures)
    assert soft.shape == pictures.shape and soft.std() < pictures.std()
    assert abs(float(soft.mean() - pictures.mean())) < 0.01
