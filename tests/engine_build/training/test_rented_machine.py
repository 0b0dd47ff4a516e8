"""nano-gpu.toml's own command where only torch and a few wheels are: minutes at a time, files small enough to carry.

The machine is rehearsed: a site folder that links to what such a machine has and to the wheels named here alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from engine_build.training.config import DEFAULT_CONFIG, TrainConfig
from engine_build.training.loop.run import has_state, read_state
from engine_build.training.stages.batch_size import STEP, largest

ROOT = Path(__file__).parents[3]
CONFIG = DEFAULT_CONFIG.parent / "nano-gpu.toml"
THERE = ("torch", "triton", "numpy", "safetensors", "transformers", "pillow", "setuptools")
CARRIED = ("diffusers", "httpx")
PURE_TOO = {"charset-normalizer"}
"""Has a pure wheel as well, which only is slower than the compiled one installed here."""
SMALL = {
    "num_layers": "1",
    "num_single_layers": "1",
    "num_attention_heads": "2",
    "joint_attention_dim": "192",
    "attention_layers": "[1]",
    "attention_heads": "1",
    "steps": "2",
    "height": "64",
    "shot": "32",
    "heights": "[64, 128]",
    "shots": "[32, 32]",
    "begins": "[0, 1]",
    "draws": "1",
    "passes": "1",
    "tokenizer_edits": "50",
    "validate_every": "1",
    "save_every": "1",
    "show_every": "1",
    "largest_file_mib": "1",
    "device": '"cpu"',
}


def _with_needs(names: tuple[str, ...]) -> dict[str, Distribution]:
    """Distributions and everything they need without extras, by normalised name, as far as it is installed here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[key].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder that holds THERE and CARRIED with what they need."""
    site = tmp_path_factory.mktemp("bare") / "site"
    site.mkdir()
    for one in _with_needs(THERE + CARRIED).values():
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(one.locate_file(top))))
    return site


def _python(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    paths = os.pathsep.join((str(ROOT), str(site)))
    return subprocess.run(
        [sys.executable, "-S", *words],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheels_to_carry_are_pure() -> None:
    carried = _with_needs(THERE + CARRIED).keys() - _with_needs(THERE).keys()
    assert carried >= set(CARRIED)
    for name in carried - PURE_TOO:
        wheel = distribution(name).read_text("WHEEL") or ""
        assert "Root-Is-Purelib: true" in wheel and "-none-any" in wheel, name


def test_the_service_is_not_there(bare: Path) -> None:
    for missing in ("fastapi", "redis", "accelerate", "pytest"):
        assert _python(bare, "-c", f"import {missing}").returncode != 0, missing


@pytest.mark.timeout(400)
def test_the_recipe_runs_in_minutes_at_a_time_and_leaves_small_files(bare: Path, tmp_path: Path) -> None:
    text = CONFIG.read_text()
    for name, value in SMALL.items():
        text, times = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert times, f"nano-gpu.toml has no {name}"
    path = tmp_path / "small.toml"
    path.write_text(text)
    out = tmp_path / "out"
    words = ("-m", "engine_build.training", "recipe", "--config", str(path), "--resume", "--out", str(out))
    first = _python(bare, *words, "--minutes", "0")
    assert first.returncode == 0, first.stderr[-2000:]
    assert has_state(out / "pretrain.pt") and not has_state(out / "tryon.pt")
    assert int(read_state(out / "pretrain.pt")["step"]) == 1
    then = _python(bare, *words, "--minutes", "4")
    assert then.returncode == 0, then.stderr[-2000:]
    assert Path(then.stdout.splitlines()[-1]) == out / "tryon" / "checkpoint"
    names = TrainConfig.load(path).recipe
    assert names == ("pretrain", "resolution", "tryon")
    assert [int(read_state(out / f"{name}.pt")["step"]) for name in names] == [2, 2, 2]
    assert all(json.loads((out / f"{name}.batch.json").read_text())["batch"] == 8 for name in names)
    weights = [file for file in out.rglob("*") if file.is_file() and "vae" not in file.parts]
    assert weights and max(file.stat().st_size for file in weights) <= 1 << 20


def test_the_real_table_is_as_large_as_it_says() -> None:
    config = TrainConfig.load(CONFIG)
    assert config.largest_file_mib == 16 and config.stage("tryon").bf16
    assert (config.stage("tryon").height * 3 // 4, config.stage("tryon").height) == (192, 256)
    assert all(config.stage(name).batch == 0 for name in config.recipe)
    with torch.device("meta"):
        shape = config.setup(torch.device("cpu")).shape
        from engine_build.model.mmdit import MMDiT

        parameters = sum(p.numel() for p in MMDiT(shape).parameters())
    assert parameters >= 20_000_000


@pytest.mark.parametrize(
    ("room", "batch"), [(1_000, STEP), (3_300, 24), (10**9, 512), (0, STEP)], ids=["tight", "some", "much", "none"]
)
def test_the_batch_is_the_largest_that_fits(room: int, batch: int) -> None:
    assert largest(lambda count: 900 + 100 * count, room) == batch
