"""docs/judge.md: its commands have the options it names, its table of columns is one that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from engine_build.judging.parquet import Columns
from service.commands.judge import judge

TEXT = (Path(__file__).parents[3] / "docs" / "judge.md").read_text(encoding="utf-8")


def test_every_command_it_shows_takes_the_options_it_shows() -> None:
    known = {name: command for name, command in typer.main.get_command(judge).commands.items()}  # type: ignore[attr-defined]
    shown = re.findall(r"changeroom judge ([^\n`]*(?:\\\n[^\n`]*)*)", TEXT)
    named = set()
    for line in shown:
        words = line.replace("\\\n", " ").split()
        command = known[words[0] if words and words[0] in known else "run"]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        named.add(command.name)
    assert {"run", "pairs", "report", "baseline"} <= named
    every = {option for command in known.values() for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", TEXT)) <= every


def test_its_table_of_columns_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "columns.toml").write_text(block)
    table = Columns.load(tmp_path / "columns.toml")
    assert table.ours("upper_body") == "tops" and table.columns["person"] == "person_image"
