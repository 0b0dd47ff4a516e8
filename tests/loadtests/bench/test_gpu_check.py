"""`make gpu-check` rehearsed on a CPU: failures are written down, the rest goes on, parts are kept from run to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from loadtests.bench.gpu_check import ROOT, TESTS, Done, check, main, run_bench, run_tests

SOME = """
import pytest

def test_good():
    pass

@pytest.mark.parametrize("x", [1, 2])
def test_bad(x):
    assert x == 2, "not two"

def test_left_out():
    pytest.skip("nothing here")
"""


def test_every_path_it_runs_is_there() -> None:
    assert [path for path in TESTS if not (ROOT / path).exists()] == []


def test_which_tests_failed_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(SOME)
    entry = run_tests(tmp_path, 1, False, [str(file)])
    assert entry["status"] == "failed: exit status 1"
    assert (entry["passed"], entry["skipped"], len(entry["failed"])) == (2, 1, 1)
    assert "test_bad[1]: " in entry["failed"][0] and "not two" in entry["failed"][0]
    assert "1 failed" in entry["said"]


def test_tests_that_do_not_run_are_no_success(tmp_path: Path) -> None:
    """Every one skipped where there is a GPU, or none that pytest could collect."""
    file = tmp_path / "test_some.py"
    file.write_text("import pytest\n\npytest.importorskip('no_such_package')\n")
    assert run_tests(tmp_path, 1, True, [str(file)])["status"].startswith("failed: ")
    file.write_text("import no_such_package\n")
    assert run_tests(tmp_path, 1, False, [str(file)])["status"] == "failed: exit status 2"


def test_a_row_that_failed_fails_its_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = ["ok", "skipped: no GPU", "failed: out of memory"]

    def bench(*words: str, timeout_s: float) -> Done:
        found = {"end_to_end": [{"status": status} for status in statuses], "packed": [{"status": "ok"}]}
        Path(words[words.index("--json") + 1]).write_text(json.dumps(found))
        return Done(0, 1.0, "said")

    monkeypatch.setattr("loadtests.bench.gpu_check.changeroom", bench)
    entry = run_bench("nano", tmp_path, 1, "auto")
    assert entry["status"] == "failed: 1 rows failed, 2 were measured"
    assert entry["rows"] == {"ok": 2, "skipped": 1, "failed": 1}
    assert entry["said"] == "said"
    statuses.pop()
    assert run_bench("nano", tmp_path, 1, "auto")["status"] == "ok"


def test_a_bench_that_cannot_start_is_written_down(tmp_path: Path) -> None:
    entry = run_bench("nano", tmp_path, 0.01, "cuda:99")
    assert entry["status"] == "failed: exit status 1"
    assert "cuda:99" in entry["said"]
    assert "found" not in entry


@pytest.mark.timeout(300)
def test_one_file_keeps_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    file, good = check(("nano", "tensorrt"), 0.02, tmp_path, "cpu", said.append)
    first = json.loads(file.read_text())
    assert file.name.startswith("gpu-check-cpu-")
    assert first["machine"]["versions"]["torch"] == torch.__version__
    assert set(first["parts"]) == {"nano", "tensorrt"}
    nano = first["parts"]["nano"]
    assert good == (nano["status"] == "ok"), said
    assert nano["status"] == "ok", nano
    rows = nano["found"]["end_to_end"]
    assert {row["mode"] for row in rows} > {"diffusers", "torch", "triton"}
    left = [row for row in rows if row["status"].startswith("not measured")]
    assert left and not any(row["p50"] for row in left)  # 1.2 seconds are not enough for everything
    if not first["machine"]["tensorrt_here"]:
        assert first["parts"]["tensorrt"]["status"].startswith("skipped: TensorRT is not installed")

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("loadtests.bench.gpu_check.run_tensorrt", broken)
    again, good = check(("tensorrt",), 0.02, tmp_path, "cpu", said.append)
    second = json.loads(again.read_text())
    assert again == file and not good
    assert second["parts"]["nano"] == nano
    assert second["parts"]["tensorrt"]["status"] == "failed: the disk is full"


def test_wrong_words_and_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--parts", "klein-40b"])
    assert refused.value.code == 2
    if not torch.cuda.is_available():
        assert main(["--parts", "nano"]) == 1
        assert "no CUDA device here" in capsys.readouterr().err
