"""`changeroom loadtest capacity`: the options; `loadtests.capacity.plan` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands import traffic as options
from service.commands.failures import CommandFailed
from service.commands.traffic import DURATION, read
from service.settings import Settings

TIMES = "How long a try-on takes (one of these)"
FLEET = "The fleet"
SCALE = "On paper"


def _setting(name: str) -> float:
    default = Settings.model_fields[name].default
    return float(default)


def capacity(
    times: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV or JSON rows garments,seconds[,batch]: measured engine seconds of a batch.",
            rich_help_panel=TIMES,
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|FILE",
            help="/metrics of each worker under a typical load (repeat for several workers).",
            rich_help_panel=TIMES,
        ),
    ] = None,
    quiet_metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The same at a low load: tells what a batch shares from what each try-on adds.",
            rich_help_panel=TIMES,
        ),
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Execution times as the trace recorded them.", rich_help_panel=TIMES)
    ] = False,
    shape: options.Shape = options.Shapes.poisson,
    rate: options.Rate = 1.0,
    duration: Annotated[
        str, typer.Option(metavar=DURATION, help="Length; a trace is cut after it.", rich_help_panel=options.TRAFFIC)
    ] = "",
    cv: options.Cv = 1.0,
    peak_to_trough: options.PeakToTrough = 10.0,
    peak_rate: options.PeakRate = None,
    trace: options.Trace = None,
    images: options.Images = options.Meanings.garments,
    speed: options.Speed = 1.0,
    busiest: options.Busiest = False,
    garments: options.Garments = options.USUAL_GARMENTS,
    priorities: options.Priorities = "normal",
    p50: options.P50 = None,
    p95: options.P95 = None,
    p99: options.P99 = None,
    max_unserved: Annotated[
        str, typer.Option(metavar="SHARE", help="Refused, expired or failed.", rich_help_panel=options.OBJECTIVES)
    ] = "1%",
    max_backlog: Annotated[
        float, typer.Option(help="CHANGEROOM_MAX_BACKLOG_S; 0 is unlimited.", rich_help_panel=FLEET)
    ] = _setting("max_backlog_s"),
    deadline: Annotated[str, typer.Option(metavar=DURATION, help="Of each try-on.", rich_help_panel=FLEET)] = "120s",
    batch: Annotated[
        int, typer.Option(min=1, max=16, help="Most try-ons in one batch of a GPU.", rich_help_panel=FLEET)
    ] = 16,
    token_budget: Annotated[int, typer.Option(min=1, help="Tokens in one batch.", rich_help_panel=FLEET)] = 49_152,
    failure_every: Annotated[
        str | None,
        typer.Option(metavar=DURATION, help="Mean time between failures of one GPU.", rich_help_panel=FLEET),
    ] = None,
    restart: Annotated[
        str, typer.Option(metavar=DURATION, help="Until a failed worker is back.", rich_help_panel=FLEET)
    ] = "60s",
    scale: Annotated[
        int | None,
        typer.Option(min=1000, metavar="REQUESTS", help="Also reckon this many a day.", rich_help_panel=SCALE),
    ] = None,
    peak: Annotated[
        float, typer.Option(min=1.0, help="The peak of that day over its mean.", rich_help_panel=SCALE)
    ] = 3.0,
    spare: Annotated[
        str, typer.Option(metavar="SHARE", help="GPUs beyond the need of the peak.", rich_help_panel=SCALE)
    ] = "10%",
    seed: options.Seed = 0,
    html: options.Html = None,
    json_file: options.JsonFile = None,
    title: options.Title = "Capacity",
) -> None:
    """Reckon how many GPUs a traffic and an objective need, by simulating the service with measured times.

    Exit code: 0 found, 1 no number of GPUs is enough.

    [bold]Examples[/]

    A day as recorded, with the execution times in the trace:

      changeroom loadtest capacity --trace lora_request_trace.csv --recorded --images ignored --p95 120s

    A sale, on times measured in a table, with plots:

      changeroom loadtest capacity --times h200.csv --shape flash-sale --rate 5 --peak-rate 60 --duration 30m \\
        --p95 3s --html capacity.html

    Thirty million a day from what two workers measured:

      changeroom loadtest capacity --metrics http://w1:9101/metrics --metrics http://w2:9101/metrics --rate 20 \\
        --duration 10m --p95 3s --scale 30000000
    """
    from loadtests.capacity.fleet import Fleet
    from loadtests.capacity.plan import Goal
    from loadtests.capacity.run import Given, main
    from loadtests.capacity.service_times import CalibrationError
    from loadtests.replay.verdict import seconds, share
    from loadtests.traffic.traffic import Traffic, asked

    if sum((times is not None, bool(metrics), recorded)) != 1:
        raise typer.BadParameter("give one of --times, --metrics and --recorded", param_hint="--times")
    if recorded and trace is None:
        raise typer.BadParameter("needs --trace", param_hint="--recorded")
    bounds = {50.0: p50, 95.0: p95, 99.0: p99}
    wanted = tuple((q, read(f"--p{q:g}", seconds, text)) for q, text in bounds.items() if text is not None)
    if not wanted:
        raise typer.BadParameter("give at least one of --p50, --p95, --p99", param_hint="--p95")
    traffic = Traffic(
        shape=shape.value,
        rate=rate,
        duration_s=read("--duration", seconds, duration) if duration else None if trace else 600.0,
        cv=cv,
        peak_to_trough=peak_to_trough,
        peak_rate=peak_rate,
        trace=trace,
        speed=speed,
        busiest=busiest,
        images=images.value,
        seed=seed,
        asked=read("--garments, --priorities", lambda _: asked(garments, "default", priorities), ""),
    )
    fleet = Fleet(
        1,
        max_in_flight=0,
        max_backlog_s=max_backlog,
        deadline_s=read("--deadline", seconds, deadline),
        max_jobs=batch,
        token_budget=token_budget,
        mean_time_to_failure_s=read("--failure-every", seconds, failure_every) if failure_every else 0.0,
        restart_s=read("--restart", seconds, restart),
    )
    goal = Goal(wanted, read("--max-unserved", share, max_unserved))
    given = Given(
        traffic,
        fleet,
        goal,
        times,
        tuple(metrics or ()),
        tuple(quiet_metrics or ()),
        scale,
        peak,
        read("--spare", share, spare),
        cv,
        seed,
    )
    try:
        code = main(given, json_file=json_file, html=html, title=title)
    except (CalibrationError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    raise typer.Exit(code)
