"""Inception features as clean-fid 0.1.35 takes them, on a tiny network of the same shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from noise_pictures import noise_folder
from PIL import Image
from tiny_networks import FEATURES, inception_file, scripted
from torch import nn

from engine_build.errors import CheckpointError
from engine_build.judging.pictures import upright
from engine_build.judging.similarity.distances import frechet_distance, kernel_distance
from engine_build.judging.similarity.inception import SIDE, Inception, resized


def test_pictures_are_resized_as_clean_fid_does() -> None:
    dice = np.random.RandomState(0)
    dice.randn(60 * 8 * 2 + 8 * 8 + 20 * 32 + 25 * 32)
    pixels = dice.randint(0, 256, (40, 30, 3)).astype(np.uint8)
    found = resized(Image.fromarray(pixels))
    assert found.shape == (3, SIDE, SIDE) and found.dtype == np.float32
    assert float(found.astype(np.float64).sum()) == pytest.approx(34472190.064580925, rel=1e-9)
    assert float(found[1, 7, 11]) == pytest.approx(221.42459106445312, rel=1e-6)
    assert float(found[2, 298, 298]) == pytest.approx(185.88246154785156, rel=1e-6)
    assert np.ptp(found[0] - found[0].round()) > 0.5


def test_two_folders_are_as_far_apart_as_clean_fid_says(tmp_path: Path) -> None:
    """Its `get_folder_features`, `fid_from_feats` and `kernel_distance`, run once on the same files."""
    inception = Inception(inception_file(tmp_path))
    folders = noise_folder(tmp_path / "a", 20, 1), noise_folder(tmp_path / "b", 20, 2, 60, 200)
    a, b = (inception.features(upright(path) for path in sorted(folder.iterdir())) for folder in folders)
    assert a.shape == (20, FEATURES) and a.dtype == np.float64
    assert (a[3, 5], b[11, 0]) == (
        pytest.approx(2.0472609996795654, rel=1e-4),
        pytest.approx(1.4679501056671143, rel=1e-4),
    )
    assert frechet_distance(a, b) == pytest.approx(18.71970870305572, rel=1e-4)
    assert 1000 * kernel_distance(a, b)[0] == pytest.approx(199790.38835739196, rel=1e-4)


def test_every_picture_counts_once_whatever_the_batches(tmp_path: Path) -> None:
    inception = Inception(inception_file(tmp_path))
    folder = noise_folder(tmp_path / "a", 35, 3, size=(20, 20))
    pictures = [upright(path) for path in sorted(folder.iterdir())]
    heard: list[int] = []
    found = inception.features(pictures, heard.append)
    assert found.shape == (35, FEATURES) and heard == [16, 16, 3]
    np.testing.assert_allclose(found[34:], inception.features(pictures[34:]), rtol=1e-5)


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"none\.pt is not there.*fetch https://.*inception-2015-12-05\.pt.*--inception"
    ):
        Inception(tmp_path / "none.pt")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.pt").write_text("words")
    for file in (tmp_path / "words.pt", scripted(nn.ReLU(), tmp_path / "other.pt")):
        with pytest.raises(CheckpointError, match=r"is not inception-2015-12-05\.pt"):
            Inception(file)
