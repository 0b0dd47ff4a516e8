"""Every command of `changeroom`. Each imports what it needs only when it runs, so `--help` answers at once.

Exit codes: 0 success, 1 failure with one line on stderr that says what to do, 2 wrong usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.data import data
from service.commands.engine import engine
from service.commands.failures import OneLineFailures
from service.commands.keys import keys
from service.commands.loadtest import loadtest
from service.commands.plan import plan
from service.commands.top import top
from service.commands.tryon import tryon

app = typer.Typer(
    cls=OneLineFailures,
    help="Virtual try-on: one person and 1 to 6 garments in, one dressed photo out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
weights = typer.Typer(help="Look at checkpoints.", no_args_is_help=True)
app.add_typer(weights, name="weights")
weights.command("plan")(plan)
app.add_typer(keys, name="keys")
app.add_typer(engine, name="engine")
app.add_typer(data, name="data")
app.add_typer(loadtest, name="loadtest")
app.command()(tryon)
app.command()(top)

MODEL_HELP = "nano, a checkpoint folder or a hub id"
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting of the configuration table, e.g. lease_s=5."
    ),
]
RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="A Redis or Valkey elsewhere; default REDIS_URL.")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder for the store, pictures and logs.")]
ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]
BackendOption = Annotated[str | None, typer.Option("--backend", help="torch, triton, triton-tma or tensorrt")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16, float16 or fp8")]
PortOption = Annotated[
    int | None, typer.Option("--port", help="TCP port of the gateway; 0 picks a free one.")
]
HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE", param_hint="--set")
        pairs[name] = value
    return pairs


@app.command()
def up(
    port: PortOption = None,
    host: HostOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, one per device.")] = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    redis_url: RedisOption = None,
    set_: SetOption = None,
) -> None:
    """Run everything on this machine: store, worker, gateway, page; dress the sample person; serve.

    Example: changeroom up --port 8080 --data ./var --model nano
    """
    from service.local.up import up as run_up
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "port": port, "host": host, "data_dir": data, "model": model, "workers": workers,
        "backend": backend, "device": device, "dtype": dtype, "redis_url": redis_url,
    }  # fmt: skip
    raise typer.Exit(run_up(load_settings(**given)))


@app.command()
def gateway(
    port: PortOption = None,
    host: HostOption = None,
    data: DataOption = None,
    redis_url: RedisOption = None,
    set_: SetOption = None,
) -> None:
    """Run one gateway process: the REST API and the studio page.

    Example: REDIS_URL=redis://store:6379/0 changeroom gateway --host 0.0.0.0 --port 8000
    """
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "port": port, "host": host, "data_dir": data, "redis_url": redis_url,
    }  # fmt: skip
    settings = load_settings(**given)
    from service.gateway import serve
    from service.telemetry import configure_logging

    configure_logging(settings)
    serve(settings)


@app.command()
def worker(
    model: ModelOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics here; 0 is off.")] = None,
    data: DataOption = None,
    redis_url: RedisOption = None,
    set_: SetOption = None,
) -> None:
    """Run one worker process on one device.

    Example: REDIS_URL=redis://store:6379/0 changeroom worker --model nano --metrics-port 9101
    """
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "model": model, "backend": backend, "device": device, "dtype": dtype,
        "metrics_port": metrics_port, "data_dir": data, "redis_url": redis_url,
    }  # fmt: skip
    settings = load_settings(**given)
    from service.telemetry import configure_logging
    from service.worker.main import run_worker

    configure_logging(settings)
    raise typer.Exit(run_worker(settings))


@app.command()
def samples(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made when absent.")],
    seed: Annotated[int, typer.Option(help="The same seed draws the same people and clothes.")] = 0,
    garments: Annotated[int, typer.Option(min=1, max=6, help="How many garments to draw.")] = 2,
) -> None:
    """Draw a procedural person, garments and the true answer: pictures you may use for anything.

    Example: changeroom samples ./demo --seed 7 --garments 3
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.training.world.sample_files import write_samples

    write_samples(folder, seed, garments)
    typer.echo(str(folder.absolute()))


@weights.command("check")
def weights_check(
    model: Annotated[str, typer.Argument(metavar="PATH|HUB_ID", help=MODEL_HELP)],
) -> None:
    """Load a checkpoint strictly, without running it, and say what it is.

    Example: changeroom weights check black-forest-labs/FLUX.2-klein-4B
    """
    from engine_build.model.weights import check

    typer.echo(check(model))


@app.command()
def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="nano (from nothing to the bundled checkpoint), or one stage: pretrain, resolution, tryon, isolate, "
            "nft, cfg-distill, dmd, expert; packing and evidence measure."
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(help="The configuration file; default: the bundled checkpoint's own.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved state.")] = False,
) -> None:
    """Train a checkpoint, stage by stage; progress, losses and sample grids go to the run's folder.

    In order: pretrain (general edits), resolution (growing pictures), tryon, isolate (references that see only
    themselves, cached across requests), nft (reinforcement by four rewards), cfg-distill (one pass for two), dmd (few
    steps); expert makes a LoRA for one domain. Each is a table of the file and starts where its start_from says.
    Without data = "shards/*.tar" in a table it draws the procedural world; docs/training.md leads from your own
    pictures to a served model. A stage interrupted at any moment goes on with --resume, with exactly the next step.

    Example: changeroom train tryon --config engine_build/training/configs/pico.toml --resume

    Many GPUs: torchrun --nproc-per-node 8 -m service.cli train tryon --config FILE
    """
    from engine_build.training.train import main

    typer.echo(str(main(stage, config, resume).absolute()))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    samples: Annotated[int, typer.Option(min=1, help="How many try-ons to judge.")] = 64,
    garments: Annotated[
        int | None, typer.Option(min=1, max=6, help="Only outfits of this many; default: 1 to 6 in turn.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a picture; default: the model's.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores here.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also paint a contact sheet here, 1 to 6 garments.")] = None,
) -> None:
    """Judge a model against the truth of the procedural world.

    Example: changeroom evaluate nano --samples 64 --json scores.json
    """
    from service.settings import let_threads_sleep

    let_threads_sleep()
    from engine_build.training.measure.evaluate import main

    main(model, samples, garments, json_file, steps, typer.echo, sheet)


if __name__ == "__main__":
    app()
