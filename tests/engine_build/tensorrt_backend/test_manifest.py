"""Engines are refused wherever they were not built for, in one line that says what to do."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine_build.backends import load_engine
from engine_build.errors import BackendError
from engine_build.model.weights import NANO
from engine_build.tensorrt.manifest import EngineFile, Manifest, digest_checkpoint, digest_file
from service.cli import app

HERE = {"checkpoint": "a" * 64, "tensorrt": "11.4.0.106", "driver": 13000, "arch": 90}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    plan = tmp_path / "cached.plan"
    plan.write_bytes(b"an engine")
    shapes = {"target": [[1, 64], [108, 64], [324, 64]]}
    made = Manifest(
        model="nano", gpu="NVIDIA H200", attention="plugin", precision="bfloat16", plugin="f" * 64,
        buckets=["72x96:6*3"], engines={"cached": EngineFile(plan.name, digest_file(plan), [shapes])}, **HERE,
    )  # fmt: skip
    made.save(tmp_path)
    return made


def test_what_is_written_is_read(tmp_path: Path, manifest: Manifest) -> None:
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest
    loaded.require(**HERE)
    loaded.require(**HERE | {"driver": 13010})
    assert loaded.plan(tmp_path, "cached").read_bytes() == b"an engine"


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"checkpoint": "b" * 64}, "weights aaaaaaaaaaaa, here it is bbbbbbbbbbbb"),
        ({"tensorrt": "10.15.1.29"}, r"TensorRT 11\.4\.0\.106, here it is 10\.15\.1\.29"),
        ({"arch": 100}, "sm_90, here it is sm_100"),
        ({"driver": 12080}, "driver 13000, here it is the older 12080"),
    ],
)
def test_every_difference_is_refused(manifest: Manifest, here: dict[str, object], said: str) -> None:
    with pytest.raises(BackendError, match=said) as refused:
        manifest.require(**HERE | here)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert "changeroom engine build" in str(refused.value)


def test_another_file_under_the_name_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "cached.plan").write_bytes(b"another")
    with pytest.raises(BackendError, match="not the file that was built"):
        manifest.plan(tmp_path, "cached")
    (tmp_path / "cached.plan").unlink()
    with pytest.raises(BackendError, match="is missing"):
        manifest.plan(tmp_path, "cached")
    with pytest.raises(BackendError, match="no engine 'joint'"):
        manifest.plan(tmp_path, "joint")


def test_a_manifest_that_cannot_be_read(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "manifest.json"
    for broken in ("{", "[]", '{"engines": {}}'):
        path.write_text(broken)
        with pytest.raises(BackendError, match="cannot be read"):
            Manifest.load(tmp_path)
    replace(manifest, format=2).save(tmp_path)
    with pytest.raises(BackendError, match="format 2"):
        Manifest.load(tmp_path)
    path.unlink()
    with pytest.raises(BackendError, match="no engines were built there"):
        Manifest.load(tmp_path)


def test_a_checkpoint_is_known_by_content_alone(tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(NANO, copied)
    assert digest_checkpoint(copied) == digest_checkpoint(NANO)
    config = json.loads((copied / "changeroom.json").read_text())
    (copied / "changeroom.json").write_text(json.dumps(config | {"default_steps": 5}))
    assert digest_checkpoint(copied) != digest_checkpoint(NANO)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_the_backend_says_what_to_install() -> None:
    with pytest.raises(BackendError, match=r"pip install 'changeroom\[tensorrt\]'"):
        load_engine("nano", backend="tensorrt")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
@pytest.mark.parametrize(
    "words",
    [
        ["build", "--model", "nano", "--bucket", "72x96:6*3"],
        ["build", "--backend", "tensorrt"],
        ["verify", "--backend", "tensorrt"],
        ["bench", "--backend", "tensorrt"],
        ["bench", "--model", "nano", "--backend", "torch", "--backend", "tensorrt"],
    ],
)
def test_without_tensorrt_every_command_says_so_in_one_line(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["engine", *words])
    assert done.exit_code == 1
    (said,) = done.stderr.splitlines()
    assert "TensorRT is not installed" in said and "pip install 'changeroom[tensorrt]'" in said
