"""Every command of `changeroom`. Each imports what it needs only when it runs, so `--help` answers at once.

Exit codes: 0 success, 1 failure with one line on stderr that says what to do, 2 wrong usage.
"""

from __future__ import annotations

import typer

from engine_build.instruction import MAX_GARMENTS
from service.commands.data import data
from service.commands.engine import engine
from service.commands.failures import OneLineFailures
from service.commands.judge import judge
from service.commands.keys import keys
from service.commands.loadtest import loadtest
from service.commands.serving import gateway, up, worker
from service.commands.top import top
from service.commands.training import evaluate, samples, train
from service.commands.tryon import tryon
from service.commands.weights import weights

app = typer.Typer(
    cls=OneLineFailures,
    help=f"Virtual try-on: one person and 1 to {MAX_GARMENTS} garments in, one dressed photo out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(weights, name="weights")
app.add_typer(keys, name="keys")
app.add_typer(engine, name="engine")
app.add_typer(data, name="data")
app.add_typer(judge, name="judge")
app.add_typer(loadtest, name="loadtest")
for command in (tryon, top, up, gateway, worker, samples, train, evaluate):
    app.command()(command)


if __name__ == "__main__":
    app()
