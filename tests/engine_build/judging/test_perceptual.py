"""LPIPS beside torchmetrics' own on the same weights, and the backbones beside their published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import backbone_file
from torch import Tensor
from torchmetrics.functional.image import lpips as theirs

from engine_build.errors import CheckpointError
from engine_build.judging.similarity.perceptual import BACKBONES, Lpips

NETS = sorted(BACKBONES)
PARAMETERS = {"squeeze": 722_496, "alex": 2_469_696, "vgg": 14_714_688}
"""Of torchvision's `features`."""


def pictures(height: int = 67, width: int = 75) -> tuple[Tensor, Tensor]:
    a = torch.rand(3, height, width, generator=torch.Generator().manual_seed(2))
    return a, (a + 0.2 * torch.rand(a.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)


@pytest.mark.parametrize("net", NETS)
def test_the_backbone_has_the_published_size(net: str) -> None:
    assert sum(parameter.numel() for parameter in BACKBONES[net]().parameters()) == PARAMETERS[net]


@pytest.mark.parametrize("net", NETS)
def test_torchmetrics_says_the_same(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = backbone_file(tmp_path, net)

    def features(name: str, pretrained: bool) -> Any:
        assert not pretrained
        network = BACKBONES[net]()
        weights = torch.load(file, weights_only=True)
        network.load_state_dict(
            {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
        )
        return network

    monkeypatch.setattr(theirs, "_get_tv_model_features", features)
    a, b = pictures()
    wanted = theirs._LPIPS(pretrained=True, net=net, pnet_rand=True)(a[None], b[None], normalize=True)
    spatial = theirs._LPIPS(pretrained=True, net=net, pnet_rand=True, spatial=True)(a[None], b[None], normalize=True)
    ours = Lpips(file, net)
    assert float(wanted) > 1e-4
    assert ours.distance(a, b) == pytest.approx(float(wanted), rel=1e-5)
    torch.testing.assert_close(ours.map(a, b), spatial[0, 0], rtol=1e-4, atol=1e-6)


def test_a_picture_is_nowhere_from_itself_and_a_spot_is_found_where_it_is(tmp_path: Path) -> None:
    lpips = Lpips(backbone_file(tmp_path))
    a, _ = pictures(96, 96)
    assert lpips.distance(a, a) == 0.0
    spotted = a.clone()
    spotted[:, 70:80, 70:80] = 0
    where = lpips.map(a, spotted)
    assert where.shape == (96, 96) and where[64:90, 64:90].mean() > 5 * where[:32, :32].mean()


def test_files_that_are_no_such_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fetch https://download\.pytorch\.org/models/squeezenet1_1.*--lpips"):
        Lpips(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is not the backbone squeeze"):
        Lpips(backbone_file(tmp_path, "alex"), "squeeze")
    with pytest.raises(CheckpointError, match="no LPIPS backbone 'resnet'"):
        Lpips(tmp_path / "none.pth", "resnet")
    (tmp_path / "words.pth").write_text("words")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        Lpips(tmp_path / "words.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        Lpips(tmp_path / "list.pth")
