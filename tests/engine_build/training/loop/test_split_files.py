"""A file in small pieces: the whole again, never a mixture, and a word when one is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe import write_config

from engine_build.errors import RequestError
from engine_build.training.config import TrainConfig
from engine_build.training.loop import split_files
from engine_build.training.loop.run import read_state
from engine_build.training.train import run_stage


@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 21])
def test_pieces_hold_the_whole(tmp_path: Path, length: int) -> None:
    content = bytes(range(length))
    split_files.write(tmp_path / "a.pt", content, 7)
    assert split_files.read(tmp_path / "a.pt").getvalue() == content
    assert all(path.stat().st_size <= 7 for path in tmp_path.glob("a.pt-*"))


def test_the_next_version_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    split_files.write(path, b"first, which is longer", 4)
    split_files.write(path, b"second", 4)
    assert split_files.read(path).getvalue() == b"second"
    assert len(list(tmp_path.iterdir())) == 3, "pieces of the version before were left"


def test_an_interrupted_version_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    split_files.write(path, b"first", 2)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(split_files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        split_files.write(path, b"second", 2)
    assert split_files.read(path).getvalue() == b"first"


def test_lost_and_cut_pieces_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    split_files.write(path, b"0123456789", 4)
    last = sorted(tmp_path.glob("a.pt-*"))[-1]
    last.write_bytes(b"8")
    with pytest.raises(RequestError, match="cut short"):
        split_files.read(path)
    last.unlink()
    with pytest.raises(RequestError, match=last.name):
        split_files.read(path)


def test_a_run_in_pieces_ends_where_a_run_in_one_file_ends(tmp_path: Path) -> None:
    ends = []
    for name, more in (("whole", ""), ("pieces", "largest_file_mib = 1\n")):
        folder = tmp_path / name
        folder.mkdir()
        path = write_config(folder)
        path.write_text(more + path.read_text().split("[resolution]")[0])
        config = TrainConfig.load(path)
        run_stage(config, "pretrain", resume=False, stop_after=2)
        run_stage(config, "pretrain", resume=True)
        ends.append(read_state(config.out / "pretrain.pt"))
    left = [path for path in (tmp_path / "pieces").rglob("*") if path.is_file()]
    assert all(path.stat().st_size <= 1 << 20 for path in left), sorted((p.stat().st_size, p.name) for p in left)[-3:]
    assert (tmp_path / "pieces/out/pretrain/checkpoint/model_index.json").exists()
    for name, value in ends[0]["model"].items():
        assert value.equal(ends[1]["model"][name]), name
