"""`changeroom weights`: what a checkpoint is, and what it will hold in a device's memory."""

from __future__ import annotations

from typing import Annotated

import typer

from service.commands.model_options import MODEL_HELP

weights = typer.Typer(help="Look at checkpoints.", no_args_is_help=True)


@weights.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="PATH|PRESET", help="klein-4b, klein-9b, tstars-5b, nano, a folder")],
    dtype: Annotated[str, typer.Option(help="auto (bfloat16), fp8, bfloat16, float16 or float32")] = "auto",
    backend: Annotated[str, typer.Option(help="torch or triton")] = "triton",
    memory: Annotated[float, typer.Option(min=1, help="The device's memory in GiB; default: one H200.")] = 140,
    cache: Annotated[float, typer.Option(min=0, help="Cache of garments' keys and values, in GiB.")] = 1,
) -> None:
    """Print what a checkpoint holds on a GPU: weights, caches, graphs, activations, and what is left.

    Example: changeroom weights plan tstars-5b --dtype fp8 --cache 32
    """
    from engine_build.memory.plan import fit
    from engine_build.options import EngineOptions

    free = int(memory * 2**30)
    options, planned = fit(
        model, dtype=dtype, backend=backend, free=free, options=EngineOptions(reference_cache_bytes=int(cache * 2**30))
    )
    typer.echo(f"{planned.table(free)}\n{options.token_budget} tokens to a forward")


@weights.command()
def check(
    model: Annotated[str, typer.Argument(metavar="PATH|HUB_ID", help=MODEL_HELP)],
) -> None:
    """Load a checkpoint strictly, without running it, and say what it is.

    Example: changeroom weights check black-forest-labs/FLUX.2-klein-4B
    """
    from engine_build.model.weights import check as check_weights

    typer.echo(check_weights(model))
