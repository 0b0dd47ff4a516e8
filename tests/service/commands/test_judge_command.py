"""`changeroom judge` as a user meets it: killed and gone on with, told beforehand, refused in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import Scripted, asked, write_set
from vision_endpoint import Answer, serving

from service.cli import app


def judge(*words: str | Path) -> int:
    """The command in this process; its exit code."""
    with pytest.raises(SystemExit) as exit_:
        app(["judge", *map(str, words)], prog_name="changeroom")
    return int(exit_.value.code or 0)


def answered(out: Path) -> set[tuple[str, str]]:
    """Sample and question of every answer of a journal."""
    lines = (out / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    return {(row["sample"], row["call"]) for row in map(json.loads, lines) if row["kind"] == "answer"}


@pytest.mark.parametrize("parallel", [1, 4])
def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(tmp_path: Path, parallel: int) -> None:
    folder = write_set(tmp_path / "set", 10)
    out = folder / "out"
    script, reached, killed = Scripted(), threading.Event(), threading.Event()

    def hanging(number: int, request: dict[str, Any]) -> Answer:
        if number >= 9:
            reached.set()
            killed.wait(60)
        return script(number, request)

    def words(url: str) -> list[str]:
        told = [sys.executable, "-m", "service.cli", "judge", str(folder / "results"), "--set", str(folder)]
        return [*told, "--url", url, "--model", "seeing", "--out", str(out), "--parallel", str(parallel)]

    with serving(hanging) as server:
        process = subprocess.Popen(words(server.url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert reached.wait(120)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        kept = answered(out)
        killed.set()
    assert 10 - parallel <= len(kept) <= 9, "what is lost is what was in flight"
    with serving(script) as server:
        done = subprocess.run(words(server.url), capture_output=True, text=True, timeout=120, check=False)
        after = [(f"s{question.number:03d}", question.form) for question in map(asked, server.requests)]
    assert done.returncode == 0, done.stderr
    assert not kept & set(after), "what was written is not asked again"
    assert len(after) == len(set(after)) == 20 - len(kept) and kept | set(after) == answered(out)
    assert f"{len(after)} questions asked in {len(after)} requests, {len(kept)} answered before" in done.stderr
    assert json.loads((out / "report.json").read_text())["judged"][0]["figures"]["overall"]["coverage"] == 1
    assert str(out) in done.stdout


def test_a_dry_run_says_what_it_would_cost_and_asks_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", 3)
    with serving(Scripted()) as server:
        common = ["--set", folder, "--url", server.url, "--model", "seeing", "--out", folder / "out"]
        prices = ["--price-read", "100", "--price-written", "200"]
        assert judge("--dry-run", folder / "results", *common, *prices, "--again", "0.5", "--sham", "0.1") == 0
        told = capfd.readouterr().out
        assert "16 questions to ask, 0 answered already" in told and f"at most {16 * 1200} to write" in told
        assert "at most $" in told and not server.requests and not (folder / "out").exists()
        assert judge("run", folder / "results", *common) == 0
        assert len(server.requests) == 6
        capfd.readouterr()
        assert judge("--dry-run", folder / "results", *common) == 0
        assert "0 questions to ask, 6 answered already" in capfd.readouterr().out
        assert judge(folder / "results", *common, "--decoding", '{"temperature": 1}') == 1
        assert "begun otherwise: the judges differ" in capfd.readouterr().err
        body = server.requests[0]
    assert (body["temperature"], body["max_tokens"]) == (0, 1200)


def test_a_budget_ends_a_run_with_one_line_and_a_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", 3)
    with serving(Scripted()) as server:
        common = ["--set", folder, "--url", server.url, "--model", "seeing", "--out", folder / "out"]
        assert judge(folder / "results", *common, "--budget", "4") == 1
        told = capfd.readouterr()
        assert "error: ended early: budget spent; the same command goes on" in told.err and "not asked" in told.out
        assert judge(folder / "results", *common, "--max-cost", "1") == 2
        assert judge(folder / "results", *common) == 0 and len(server.requests) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "http://127.0.0.1:9/v1"], "name the judge"),
        (["--oracle", "--url", "http://127.0.0.1:9/v1"], "no address"),
        (["--url", "x", "--model", "m", "--decoding", "{"], "not JSON"),
        (["--url", "x", "--model", "m", "--decoding", '{"model": "n"}'], "decoding settings expected"),
        (["--url", "ftp://x", "--model", "m"], "is not the address of an endpoint"),
        (["--oracle", "--model", "m"], "no address"),
        (["--url", "x", "--model", "m", "--steps", "2"], "need it"),
        (["--url", "x", "--model", "m", "--dry-run", "--generate", "http://y"], "a dry run does not"),
        (["--url", "x", "--model", "m", "--pairs", "paired"], "choose among the lists of VITON-HD"),
        (["--url", "x", "--model", "m", "--columns", "c.toml"], "is for parquet"),
        (["--oracle"], "was not drawn by the procedural world"),
    ],
)
def test_wrong_words_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    folder = write_set(tmp_path / "set", 1)
    assert judge(folder / "results", "--set", folder, "--out", folder / "out", *words) in (1, 2)
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_report_and_pairs_and_baseline_are_commands_beside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", 3)
    assert judge("baseline", folder / "copies", "--of", "copy", "--set", folder) == 0
    with serving(Scripted()) as server:
        common = ["--set", folder, "--url", server.url, "--model", "seeing"]
        for results in ("results", "copies"):
            assert judge(folder / results, *common, "--out", folder / f"{results}-judged") == 0
    capfd.readouterr()
    folders = [folder / "results-judged", folder / "copies-judged"]
    assert judge("report", *folders, "--json", folder / "report.json") == 0
    assert "copies-judged less results-judged" in capfd.readouterr().out
    first = (folder / "report.json").read_bytes()
    assert judge("report", *folders, "--json", folder / "again.json") == 0
    assert (folder / "again.json").read_bytes() == first and b'"compared"' in first

    def second(number: int, request: dict[str, Any]) -> Answer:
        body = json.dumps({"choices": [{"message": {"content": '{"why": "", "better": "second"}'}}]})
        return 200, {}, body.encode()

    with serving(second) as server:
        words = ["--set", folder, "--url", server.url, "--model", "seeing", "--out", folder / "pairs"]
        assert judge("pairs", folder / "results", folder / "copies", *words) == 0
    assert "flipped with the order: 100.0%" in (folder / "pairs" / "report.txt").read_text()
