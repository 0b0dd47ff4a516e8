"""The options of `changeroom loadtest replay`, in groups, and what they say to the load test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands import traffic as options
from service.commands.traffic import DURATION, read, seconds, share

if TYPE_CHECKING:
    from loadtests.replay.client import Manners
    from loadtests.replay.verdict import Objectives
    from loadtests.traffic.traffic import Traffic

CLIENTS = "How clients behave"


@dataclass(frozen=True)
class ServiceOptions:
    """The service to load."""

    url: Annotated[str, typer.Option(help="The service, e.g. https://tryon.example.com")] = "http://127.0.0.1:8000"
    key: Annotated[
        str | None, typer.Option(help="API key, or @FILE to read it from a file; sent as Authorization: Bearer.")
    ] = None


@dataclass(frozen=True)
class TryOnOptions:
    """What try-ons ask for."""

    garments: options.Garments = options.USUAL_GARMENTS
    sizes: Annotated[
        str,
        typer.Option(
            metavar="WxH:SHARE,...", help="Size of the picture; default is the model's.", rich_help_panel=options.MIX
        ),
    ] = "default"
    priorities: options.Priorities = "normal"
    photos: Annotated[
        str,
        typer.Option(
            metavar="small|phone|DIR",
            help="Bundled drawings of a few kB, the same as 2-megapixel JPEGs, or a folder with person*.jpg and "
            "tops*.jpg, pants*.jpg ...",
            rich_help_panel=options.MIX,
        ),
    ] = "small"


@dataclass(frozen=True)
class ArrivalOptions:
    """When try-ons arrive: generated, or as recorded."""

    shape: options.Shape = options.Shapes.poisson
    rate: options.Rate = 1.0
    duration: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="Length of the run, e.g. 90s, 10m; default 60s, or all of a trace.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None
    cv: options.Cv = 1.0
    peak_to_trough: options.PeakToTrough = 10.0
    period: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION, help="diurnal: the length of a day; default: the run.", rich_help_panel=options.TRAFFIC
        ),
    ] = None
    peak_rate: options.PeakRate = None
    sale_at: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: when the doors open; default a quarter into the run.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None
    decay: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: the rush falls to 37% in this time; default an eighth of the run.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None
    seed: options.Seed = 0
    trace: options.Trace = None
    speed: options.Speed = 1.0
    start: Annotated[
        str | None,
        typer.Option("--from", metavar=DURATION, help="Skip so much of the trace.", rich_help_panel=options.TRACE),
    ] = None
    busiest: options.Busiest = False
    images: options.Images = options.Meanings.garments

    def traffic(self, asking: TryOnOptions) -> Traffic:
        """The traffic of try-ons that ask for `asking`. Raises typer.BadParameter."""
        from loadtests.traffic.traffic import Traffic, asked

        return Traffic(
            shape=self.shape.value,
            rate=self.rate,
            duration_s=seconds("--duration", self.duration),
            cv=self.cv,
            peak_to_trough=self.peak_to_trough,
            period_s=seconds("--period", self.period),
            peak_rate=self.peak_rate,
            sale_at_s=seconds("--sale-at", self.sale_at),
            decay_s=seconds("--decay", self.decay),
            trace=self.trace,
            speed=self.speed,
            start_s=seconds("--from", self.start) or 0.0,
            busiest=self.busiest,
            images=self.images.value,
            seed=self.seed,
            asked=read(
                "--garments, --sizes, --priorities",
                lambda _: asked(asking.garments, asking.sizes, asking.priorities),
                "",
            ),
        )


@dataclass(frozen=True)
class ClientOptions:
    """How clients behave."""

    patience: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION, help="Clients cancel and leave after this; default never.", rich_help_panel=CLIENTS
        ),
    ] = None
    impatient: Annotated[
        str, typer.Option(metavar="SHARE", help="How many clients have only --patience.", rich_help_panel=CLIENTS)
    ] = "100%"
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Times a client comes again after 429, 503 or a lost connection, with the same Idempotency-Key.",
            rich_help_panel=CLIENTS,
        ),
    ] = 0
    rude: Annotated[
        bool, typer.Option("--rude", help="Come again after 0.1 s, whatever Retry-After says.", rich_help_panel=CLIENTS)
    ] = False
    slow_readers: Annotated[
        str,
        typer.Option(metavar="SHARE", help="How many clients read their picture at 2 kB/s.", rich_help_panel=CLIENTS),
    ] = "0%"
    download: Annotated[
        bool, typer.Option("--download/--no-download", help="Read the finished picture.", rich_help_panel=CLIENTS)
    ] = True
    timeout: Annotated[
        str,
        typer.Option(
            metavar=DURATION, help="A try-on without an end after this is counted unreachable.", rich_help_panel=CLIENTS
        ),
    ] = "120s"
    connections: Annotated[
        int,
        typer.Option(
            min=1, max=20000, help="At most so many at once; one per try-on on its way.", rich_help_panel=CLIENTS
        ),
    ] = 1000

    def manners(self) -> Manners:
        """The manners that the load test's clients have. Raises typer.BadParameter."""
        from loadtests.replay.client import Manners

        return Manners(
            patience_s=seconds("--patience", self.patience),
            impatient=share("--impatient", self.impatient),
            retries=self.retries,
            rude=self.rude,
            timeout_s=seconds("--timeout", self.timeout),
            download=self.download,
            slow_readers=share("--slow-readers", self.slow_readers),
        )


@dataclass(frozen=True)
class ObjectiveOptions(options.LatencyOptions):
    """What the run must keep."""

    availability: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Succeeded over succeeded, failed, expired, refused and unreachable.",
            rich_help_panel=options.OBJECTIVES,
        ),
    ] = None
    max_rejected: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Ended with 429 or 503, after every retry.", rich_help_panel=options.OBJECTIVES
        ),
    ] = None
    max_gave_up: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Left by impatient clients.", rich_help_panel=options.OBJECTIVES)
    ] = None
    reject_within: Annotated[
        str | None,
        typer.Option(metavar=DURATION, help="99% of the rejections are faster.", rich_help_panel=options.OBJECTIVES),
    ] = None
    min_goodput: Annotated[
        float | None, typer.Option(help="Pictures a second.", rich_help_panel=options.OBJECTIVES)
    ] = None
    max_late: Annotated[
        str,
        typer.Option(
            metavar=DURATION,
            help="The run is invalid when 1% of the try-ons were sent later than this after they were due.",
            rich_help_panel=options.OBJECTIVES,
        ),
    ] = "100ms"

    def objectives(self) -> Objectives:
        """The bounds that the run is judged by. Raises typer.BadParameter."""
        from loadtests.replay.verdict import Objectives

        return Objectives(
            p50_s=seconds("--p50", self.p50),
            p95_s=seconds("--p95", self.p95),
            p99_s=seconds("--p99", self.p99),
            availability=share("--availability", self.availability),
            max_rejected=share("--max-rejected", self.max_rejected),
            max_gave_up=share("--max-gave-up", self.max_gave_up),
            reject_within_s=seconds("--reject-within", self.reject_within),
            min_goodput=self.min_goodput,
            max_late_s=seconds("--max-late", self.max_late),
        )


@dataclass(frozen=True)
class ReportOptions:
    """What is written down and shown."""

    html: options.Html = Path("loadtest.html")
    json_file: options.JsonFile = None
    rows: Annotated[
        bool, typer.Option("--rows", help="Put every single try-on into the JSON.", rich_help_panel=options.REPORT)
    ] = False
    title: options.Title = "Load test"
    metrics_url: Annotated[
        str | None,
        typer.Option(
            help="The service's /metrics, for the queue's depth; default URL/metrics, '' for none.",
            rich_help_panel=options.REPORT,
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.", rich_help_panel=options.REPORT)] = False
