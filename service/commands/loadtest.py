"""`changeroom loadtest`: offer traffic to a running service, and reckon how many GPUs a traffic needs."""

from __future__ import annotations

import typer

from service.commands.capacity import capacity
from service.commands.replay import replay

loadtest = typer.Typer(
    help="Offer traffic, judge the answers, plan the fleet.", no_args_is_help=True, rich_markup_mode="rich"
)
loadtest.command()(replay)
loadtest.command()(capacity)


@loadtest.callback()
def _group() -> None:
    """Offer traffic, judge the answers, plan the fleet."""
