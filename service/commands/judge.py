"""`changeroom judge`: what people and photographs say of a folder of results."""

from __future__ import annotations

import typer

from service.commands import judge_people

judge = typer.Typer(help="Judge a folder of results.", no_args_is_help=True, rich_markup_mode="rich")
for command in (judge_people.page, judge_people.votes, judge_people.similarity):
    judge.command()(command)
