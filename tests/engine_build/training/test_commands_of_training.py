"""samples, train and evaluate as a user runs them, from nothing to a scored checkpoint."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from nano_runs import CONFIG
from PIL import Image

from engine_build.errors import RequestError
from engine_build.instruction import assignments
from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.measure.summary import summary
from engine_build.training.train import Asked, main
from engine_build.world.sample_files import REGIONS, write_gallery, write_samples
from service.cli import app


def _changeroom(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        app(list(words), prog_name="changeroom")
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tiny run, trained by the command."""
    home = tmp_path_factory.mktemp("run")
    config = home / "tiny.toml"
    config.write_text(CONFIG.format(out=home / "out"))
    assert _changeroom("train", "nano", "--config", str(config)) == 0
    return home


def test_samples_hold_a_request_and_its_truth(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "a", seed=7, garments=3)
    request = json.loads(path.read_text())
    assert [g["file"].split("_")[0] for g in request["garments"]] == ["garment"] * 3
    assert [a.image for a in sorted(assignments(request["instruction"]), key=lambda a: a.image)] == [2, 3, 4]
    person, truth = (np.asarray(Image.open(path.parent / request[name])) for name in ("person", "truth"))
    before, after = (np.asarray(Image.open(path.parent / request["regions"][name])) for name in ("person", "truth"))
    assert person.shape == truth.shape == (96, 72, 3) and before.shape == after.shape == (96, 72)
    labels = request["regions"]["labels"]
    assert labels == REGIONS and set(np.unique(after)) <= set(labels.values())
    assert any((after == labels[g["category"]]).any() for g in request["garments"])
    still = (before == 0) & (after == 0)
    assert (person[still] == truth[still]).mean() > 0.9
    again = write_samples(tmp_path / "b", seed=7, garments=3)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {
        p.name: p.read_bytes() for p in again.parent.iterdir()
    }
    other = write_samples(tmp_path / "c", seed=8, garments=3)
    assert (other.parent / "person.png").read_bytes() != (path.parent / "person.png").read_bytes()


@pytest.mark.parametrize("garments", [0, 7])
def test_samples_refuse_other_counts(tmp_path: Path, garments: int) -> None:
    with pytest.raises(ValueError, match="1 to 6"):
        write_samples(tmp_path, garments=garments)


def test_gallery_names_files_that_exist(tmp_path: Path) -> None:
    manifest = json.loads(write_gallery(tmp_path).read_text())
    named = {row["file"] for part in ("people", "garments") for row in manifest[part]}
    assert named == {path.name for path in tmp_path.glob("*.png")}
    for outfit in manifest["outfits"]:
        assert {outfit["person"], *(worn["file"] for worn in outfit["garments"])} <= named


def test_training_leaves_a_checkpoint_a_log_and_grids(trained: Path) -> None:
    out = trained / "out"
    assert (out / "checkpoint" / "changeroom.json").exists()
    rows = [json.loads(line) for line in (out / "flow.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0 and rows[0]["loss"] > 0
    grids = sorted(path.name for path in (out / "grids").iterdir())
    assert grids == ["flow-2.png", "flow-3.png"]
    for name in grids:
        with Image.open(out / "grids" / name) as grid:
            assert grid.size == (2 * (3 * 48 + 3 * 32), 2 * 4 * 64)


def test_training_again_needs_resume(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(trained / "tiny.toml")
    capsys.readouterr()
    assert _changeroom("train", "nano", "--config", config) == 1
    assert "pass --resume" in capsys.readouterr().err
    before = (trained / "out/checkpoint/transformer/diffusion_pytorch_model.safetensors").read_bytes()
    assert _changeroom("train", "nano", "--config", config, "--resume") == 0
    assert (trained / "out/checkpoint/transformer/diffusion_pytorch_model.safetensors").read_bytes() == before


def test_evaluate_reports_every_figure(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_file = trained / "scores" / "tiny.json"
    model = str(trained / "out/checkpoint")
    assert _changeroom("evaluate", model, "--samples", "2", "--garments", "2", "--json", str(report_file)) == 0
    report = json.loads(report_file.read_text())
    figures = set(summary([], None, 0))
    assert figures <= set(report)
    assert (report["nfe"], report["samples"], report["garments"]) == (2, 2, 2)
    assert report["seconds_per_image"] > 0
    for name in ("copy", "truth"):
        assert figures == set(report["baselines"][name])
    assert report["baselines"]["truth"]["overall"] == 10
    assert report["baselines"]["copy"]["omission_rate"] == 1
    assert 1 <= report["overall"] < 5
    told = capsys.readouterr().out
    assert "retrieval_at_16" in told and str(report_file) in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oout = 'x'", "unknown keys: oout"),
        ("[flow]\nstepz = 3", r"\[flow\] has unknown keys: stepz"),
        ("[vae]\nwidth = 3", r"\[vae\] has unknown keys: width"),
        ("[model]\nlayers = 3", r"\[model\] has unknown keys: layers"),
        ("[checkpoint]\nsize = 3", r"\[checkpoint\] has unknown keys: size"),
        ("[flow]\nsteps = 'many'", r"\[flow\] steps cannot be 'many'"),
        ("flow = 3", r"\[flow\] must be a table"),
        ("[[flow]]\nsteps = 3\n[[flow]]\nsteps = 'x'", r"\[flow\] steps cannot be 'x'"),
        ("[cfg-distill]\nguidence = 3", r"\[cfg-distill\] has unknown keys: guidence"),
        ("[dmd]\nmix = 3", r"\[dmd\] mix cannot be 3"),
        ("[evidence]\nseed = 1", r"\[evidence\] has unknown keys: seed"),
        ("out = ", "not valid TOML"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message) as raised:
        main("nano", path, Asked())
    assert str(path) in str(raised.value)


def test_unknown_stages_and_absent_configs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _changeroom("train", "flow") == 1
    assert "no training stage 'flow'; choose from recipe" in capsys.readouterr().err
    assert _changeroom("train", "nano", "--config", str(tmp_path / "absent.toml")) == 1
    assert "does not exist" in capsys.readouterr().err


def test_the_bundled_config_loads() -> None:
    config = TrainConfig.load(DEFAULT_CONFIG)
    raw = tomllib.loads(DEFAULT_CONFIG.read_text())
    assert [(one.steps, one.height) for one in config.flows] == [(one["steps"], one["height"]) for one in raw["flow"]]
    assert [(one.steps, one.crop) for one in config.vaes] == [(one["steps"], one["crop"]) for one in raw["vae"]]
