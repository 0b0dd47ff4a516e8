"""The bench of adapters, small, through its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from engine_build.bench import adapters
from engine_build.engine import TryOnRequest
from engine_build.runtime.torch_engine import TorchEngine
from service.cli import app


def test_one_command_tells_shares_of_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[list[TryOnRequest]] = []
    real = TorchEngine.run
    monkeypatch.setattr(TorchEngine, "run", lambda self, asked: streams.append(list(asked)) or real(self, asked))
    file, threads = tmp_path / "adapters.json", torch.get_num_threads()
    command = ["engine", "bench-adapters", "--device", "cpu", "--requests", "5", "--batch", "3", "--steps", "1"]
    done = CliRunner().invoke(app, [*command, "--repeats", "2", "--rank", "3", "--json", str(file)])
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == found
    assert [row["adapters"] for row in found["rows"]] == [0, 1, 4]
    assert found["rows"][0]["throughput"] == 1
    assert all(row["seconds"] > 0 and row["throughput"] > 0 for row in found["rows"])
    assert (found["threads"], found["clock"]) == (1, "processor time of one thread")
    assert "--requests 5 --batch 3" in found["command"] and found["versions"]["torch"] == torch.__version__
    assert "| none |" in done.stdout and "| 4 |" in done.stdout
    assert torch.get_num_threads() == threads
    distinct = [len({name for one in batch for name, _ in one.adapters}) for batch in streams[1:]]
    assert sorted(distinct) == sorted([0, 0, 1, 1, 3, 2] * 2)
    assert len({one.size for batch in streams for one in batch}) == 2, "not a mixed stream"


def test_the_stream_brings_no_picture_twice() -> None:
    plan = adapters.AdapterBench(device="cpu", requests=4)
    stream = adapters._stream(adapters._engine(plan), plan)
    shown = [picture.content_hash for one in stream for picture in (one.person, *one.garments)]
    assert len(set(shown)) == len(shown)
