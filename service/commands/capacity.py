"""`changeroom loadtest capacity`: the options; `loadtests.capacity.run` does the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands import traffic as options
from service.commands.option_groups import flattened
from service.commands.traffic import DURATION, read, seconds, share
from service.errors import CommandFailed
from service.settings import Settings

if TYPE_CHECKING:
    from loadtests.capacity.fleet import SimulatedFleet
    from loadtests.traffic.traffic import Traffic

TIMES = "How long a try-on takes (one of these)"
FLEET = "The fleet"
SCALE = "On paper"
USUAL_BACKLOG_S = float(Settings.model_fields["max_backlog_s"].default)


@dataclass(frozen=True)
class TimesOptions:
    """Where the times of a try-on come from."""

    times: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV or JSON rows garments,seconds[,batch]: measured engine seconds of a batch.",
            rich_help_panel=TIMES,
        ),
    ] = None
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|FILE",
            help="/metrics of each worker under a typical load (repeat for several workers).",
            rich_help_panel=TIMES,
        ),
    ] = None
    quiet_metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The same at a low load: tells what a batch shares from what each try-on adds.",
            rich_help_panel=TIMES,
        ),
    ] = None
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Execution times as the trace recorded them.", rich_help_panel=TIMES)
    ] = False


@dataclass(frozen=True)
class DemandOptions:
    """What arrives, and what it asks for."""

    shape: options.Shape = options.Shapes.poisson
    rate: options.Rate = 1.0
    duration: Annotated[
        str, typer.Option(metavar=DURATION, help="Length; a trace is cut after it.", rich_help_panel=options.TRAFFIC)
    ] = ""
    cv: options.Cv = 1.0
    peak_to_trough: options.PeakToTrough = 10.0
    peak_rate: options.PeakRate = None
    seed: options.Seed = 0
    trace: options.Trace = None
    images: options.Images = options.Meanings.garments
    speed: options.Speed = 1.0
    busiest: options.Busiest = False
    garments: options.Garments = options.USUAL_GARMENTS
    priorities: options.Priorities = "normal"

    def traffic(self) -> Traffic:
        """The traffic to serve. Raises typer.BadParameter."""
        from loadtests.traffic.traffic import Traffic, asked

        return Traffic(
            shape=self.shape.value,
            rate=self.rate,
            duration_s=seconds("--duration", self.duration) if self.duration else None if self.trace else 600.0,
            cv=self.cv,
            peak_to_trough=self.peak_to_trough,
            peak_rate=self.peak_rate,
            trace=self.trace,
            speed=self.speed,
            busiest=self.busiest,
            images=self.images.value,
            seed=self.seed,
            asked=read("--garments, --priorities", lambda _: asked(self.garments, "default", self.priorities), ""),
        )


@dataclass(frozen=True)
class GoalOptions(options.LatencyOptions):
    """What the fleet must keep."""

    max_unserved: Annotated[
        str, typer.Option(metavar="SHARE", help="Refused, expired or failed.", rich_help_panel=options.OBJECTIVES)
    ] = "1%"

    def bounds(self) -> tuple[tuple[float, float], ...]:
        """The bounds that were given: (percentile, seconds). Raises typer.BadParameter when none was."""
        texts = {50.0: self.p50, 95.0: self.p95, 99.0: self.p99}
        bounds = tuple((q, seconds(f"--p{q:g}", text)) for q, text in texts.items() if text is not None)
        if not bounds:
            raise typer.BadParameter("give at least one of --p50, --p95, --p99", param_hint="--p95")
        return bounds


@dataclass(frozen=True)
class FleetOptions:
    """The settings of the service and of its machines."""

    max_backlog: Annotated[
        float, typer.Option(help="CHANGEROOM_MAX_BACKLOG_S; 0 is unlimited.", rich_help_panel=FLEET)
    ] = USUAL_BACKLOG_S
    deadline: Annotated[str, typer.Option(metavar=DURATION, help="Of each try-on.", rich_help_panel=FLEET)] = "120s"
    batch: Annotated[
        int, typer.Option(min=1, max=16, help="Most try-ons in one batch of a GPU.", rich_help_panel=FLEET)
    ] = 16
    token_budget: Annotated[int, typer.Option(min=1, help="Tokens in one batch.", rich_help_panel=FLEET)] = 49_152
    failure_every: Annotated[
        str | None,
        typer.Option(metavar=DURATION, help="Mean time between failures of one GPU.", rich_help_panel=FLEET),
    ] = None
    restart: Annotated[
        str, typer.Option(metavar=DURATION, help="Until a failed worker is back.", rich_help_panel=FLEET)
    ] = "60s"

    def fleet(self) -> SimulatedFleet:
        """A fleet of one GPU with these settings. Raises typer.BadParameter."""
        from loadtests.capacity.fleet import SimulatedFleet

        return SimulatedFleet(
            1,
            max_in_flight=0,
            max_backlog_s=self.max_backlog,
            deadline_s=seconds("--deadline", self.deadline),
            max_jobs=self.batch,
            token_budget=self.token_budget,
            mean_time_to_failure_s=seconds("--failure-every", self.failure_every or None) or 0.0,
            restart_s=seconds("--restart", self.restart),
        )


@dataclass(frozen=True)
class ScaleOptions:
    """A day of many more requests, reckoned and not simulated."""

    scale: Annotated[
        int | None,
        typer.Option(min=1000, metavar="REQUESTS", help="Also reckon this many a day.", rich_help_panel=SCALE),
    ] = None
    peak: Annotated[
        float,
        typer.Option(min=1.0, help="The peak of that day over its mean.", rich_help_panel=SCALE),
    ] = 3.0
    spare: Annotated[
        str, typer.Option(metavar="SHARE", help="GPUs beyond the need of the peak.", rich_help_panel=SCALE)
    ] = "10%"


@dataclass(frozen=True)
class FileOptions:
    """What is written down."""

    html: options.Html = None
    json_file: options.JsonFile = None
    title: options.Title = "Capacity"


@flattened
def capacity(
    measured: TimesOptions,
    demand: DemandOptions,
    wanted: GoalOptions,
    machines: FleetOptions,
    day: ScaleOptions,
    report: FileOptions,
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
    from loadtests.capacity.plan import Goal
    from loadtests.capacity.run import Given, main
    from loadtests.capacity.service_times import CalibrationError

    if sum((measured.times is not None, bool(measured.metrics), measured.recorded)) != 1:
        raise typer.BadParameter("give one of --times, --metrics and --recorded", param_hint="--times")
    if measured.recorded and demand.trace is None:
        raise typer.BadParameter("needs --trace", param_hint="--recorded")
    bounds = wanted.bounds()
    given = Given(
        traffic=demand.traffic(),
        fleet=machines.fleet(),
        goal=Goal(bounds, share("--max-unserved", wanted.max_unserved)),
        table=measured.times,
        metrics=tuple(measured.metrics or ()),
        quiet_metrics=tuple(measured.quiet_metrics or ()),
        per_day=day.scale,
        peak=day.peak,
        spare=share("--spare", day.spare),
        cv=demand.cv,
        seed=demand.seed,
    )
    try:
        code = main(given, json_file=report.json_file, html=report.html, title=report.title)
    except (CalibrationError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    raise typer.Exit(code)
