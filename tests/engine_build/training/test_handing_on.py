"""Export bundles a run's newest weights only where they judge better, whole and in half the bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from recipe import write_config
from safetensors import safe_open

from engine_build.backends import load_engine
from engine_build.errors import RequestError
from engine_build.model.weights import NANO
from engine_build.training import handing_on
from engine_build.training.config import TrainConfig
from engine_build.training.measure import classifier
from engine_build.training.measure.evaluate import evaluate, generate, held_out
from engine_build.training.train import Asked, main, run_stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = write_config(tmp_path_factory.mktemp("run"))
    path.write_text(path.read_text().split("[resolution]")[0])
    config = TrainConfig.load(path)
    run_stage(config, "pretrain", resume=False)
    return config


def test_the_first_export_is_a_checkpoint_in_fp16_that_serves(trained: TrainConfig, tmp_path: Path) -> None:
    folder = handing_on.export(trained, 1, tmp_path / "nano")
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
        assert path.stat().st_mode & 0o777 == 0o644
    pictures, _ = generate(load_engine(str(folder)), held_out(2, 2), 64, 2)
    assert [picture.shape for picture in pictures] == [(3, 64, 48)] * 2


def test_what_is_not_better_stays_out(trained: TrainConfig, tmp_path: Path) -> None:
    bundled = tmp_path / "nano"
    shutil.copytree(NANO, bundled)
    before = {path: path.read_bytes() for path in bundled.rglob("*") if path.is_file()}
    with pytest.raises(RequestError, match="pretrain is not better: overall"):
        handing_on.export(trained, 2, bundled)
    assert {path: path.read_bytes() for path in bundled.rglob("*") if path.is_file()} == before


def test_what_is_better_takes_the_place(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "nano"
    shutil.copytree(NANO, bundled)
    (bundled / "left-over.txt").write_text("of the one before")
    heights = []

    def judged(engine: object, *_: object, height: int) -> dict[str, object]:
        heights.append(height)
        name = str(engine.describe().model)  # type: ignore[attr-defined]
        return dict.fromkeys(handing_on.FIGURES, 9.0 if "checkpoint" in name else 5.0)

    monkeypatch.setattr(handing_on, "evaluate", judged)
    handing_on.export(trained, 2, bundled)
    assert heights == [64, 64], "both are judged at the new one's size"
    assert load_engine(str(bundled)).describe().default_size == (48, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano"] and not (bundled / "left-over.txt").exists()


def test_what_is_too_large_stays_out(trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_on, "LARGEST", 1 << 10)
    with pytest.raises(RequestError, match="MiB"):
        handing_on.export(trained, 1, tmp_path / "nano")
    assert not (tmp_path / "nano").exists()


def test_a_smaller_picture_is_judged_enlarged(trained: TrainConfig) -> None:
    engine, judge = load_engine("nano"), classifier.load()
    report = evaluate(engine, judge, 2, 1, 1, height=144)
    assert report["height"] == 144 and engine.describe().default_size == (72, 96)
    (picture,), _ = generate(engine, held_out(1, 1), 144, 1)
    assert picture.shape == (3, 144, 108)


def test_minutes_end_a_recipe_where_it_can_go_on(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().split("[isolate]")[0])
    main("recipe", path, Asked(minutes=0))
    out = TrainConfig.load(path).out
    assert (out / "pretrain.pt").exists() and not (out / "resolution.pt").exists()
    with pytest.raises(RequestError, match="--resume"):
        main("recipe", path, Asked())
    left = main("recipe", path, Asked(resume=True, minutes=10))
    assert left == out / "tryon" / "checkpoint" and (left / "model_index.json").exists()
    with pytest.raises(RequestError, match="--minutes"):
        main("keep", path, Asked(minutes=1))
