"""`changeroom loadtest`: offer traffic to a running service, and reckon how many GPUs a traffic needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.replay import replay

loadtest = typer.Typer(
    help="Offer traffic, judge the answers, plan the fleet.", no_args_is_help=True, rich_markup_mode="rich"
)
loadtest.command()(replay)


@loadtest.callback()
def _group() -> None:
    """Offer traffic, judge the answers, plan the fleet."""


@loadtest.command()
def capacity(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Reckon how many GPUs a traffic and an objective need."""
    from loadtests.capacity import main

    raise typer.Exit(main(json_file=json_file))
