"""Groups of options on a command line: as if every field were a parameter of the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from service.commands.option_groups import flattened


@dataclass(frozen=True)
class Base:
    first: Annotated[int, typer.Option(min=0, help="A number.")]


@dataclass(frozen=True)
class One(Base):
    second: Annotated[str, typer.Option("--also", help="A word.")] = "usual"


@dataclass(frozen=True)
class Other:
    third: bool = False


def test_fields_are_options_and_groups_come_whole() -> None:
    got: list[tuple[One, Other]] = []

    @flattened
    def told(one: One, other: Other) -> None:
        """What it does."""
        got.append((one, other))

    app = typer.Typer()
    app.command()(told)
    run = CliRunner().invoke
    assert run(app, ["--first", "3", "--also", "word", "--third"]).exit_code == 0
    assert run(app, ["--first", "4"]).exit_code == 0
    assert got == [(One(3, "word"), Other(True)), (One(4), Other())]
    assert run(app, []).exit_code == run(app, ["--first", "-1"]).exit_code == 2
    said = run(app, ["--help"]).output
    assert "What it does." in said and said.index("--first") < said.index("--also") < said.index("--third")


def test_a_wrong_program_is_told_so() -> None:
    def twice(one: One, again: Base) -> None: ...

    def bare(number: int) -> None: ...

    with pytest.raises(TypeError, match="two options are called first"):
        flattened(twice)
    with pytest.raises(TypeError, match="number is not a dataclass"):
        flattened(bare)
