"""`changeroom loadtest replay`: the options; `loadtests.replay.run` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands import traffic as options
from service.commands.traffic import DURATION, read

CLIENTS = "How clients behave"


def _key(text: str | None) -> str | None:
    """A key as given, or read from the file of `@FILE`: a command line can be seen by others. Raises OSError."""
    return Path(text[1:]).read_text().strip() if text and text.startswith("@") else text


def replay(
    url: Annotated[str, typer.Option(help="The service, e.g. https://tryon.example.com")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None, typer.Option(help="API key, or @FILE to read it from a file; sent as Authorization: Bearer.")
    ] = None,
    shape: options.Shape = options.Shapes.poisson,
    rate: options.Rate = 1.0,
    duration: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="Length of the run, e.g. 90s, 10m; default 60s, or all of a trace.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None,
    cv: options.Cv = 1.0,
    peak_to_trough: options.PeakToTrough = 10.0,
    period: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION, help="diurnal: the length of a day; default: the run.", rich_help_panel=options.TRAFFIC
        ),
    ] = None,
    peak_rate: options.PeakRate = None,
    sale_at: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: when the doors open; default a quarter into the run.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: the rush falls to 37% in this time; default an eighth of the run.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None,
    seed: options.Seed = 0,
    trace: options.Trace = None,
    speed: options.Speed = 1.0,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar=DURATION, help="Skip so much of the trace.", rich_help_panel=options.TRACE),
    ] = None,
    busiest: options.Busiest = False,
    images: options.Images = options.Meanings.garments,
    garments: options.Garments = options.USUAL_GARMENTS,
    sizes: Annotated[
        str,
        typer.Option(
            metavar="WxH:SHARE,...", help="Size of the picture; default is the model's.", rich_help_panel=options.MIX
        ),
    ] = "default",
    priorities: options.Priorities = "normal",
    photos: Annotated[
        str,
        typer.Option(
            metavar="small|phone|DIR",
            help="Bundled drawings of a few kB, the same as 2-megapixel JPEGs, or a folder with person*.jpg and "
            "tops*.jpg, pants*.jpg ...",
            rich_help_panel=options.MIX,
        ),
    ] = "small",
    patience: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION, help="Clients cancel and leave after this; default never.", rich_help_panel=CLIENTS
        ),
    ] = None,
    impatient: Annotated[
        str, typer.Option(metavar="SHARE", help="How many clients have only --patience.", rich_help_panel=CLIENTS)
    ] = "100%",
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Times a client comes again after 429, 503 or a lost connection, with the same Idempotency-Key.",
            rich_help_panel=CLIENTS,
        ),
    ] = 0,
    rude: Annotated[
        bool, typer.Option("--rude", help="Come again after 0.1 s, whatever Retry-After says.", rich_help_panel=CLIENTS)
    ] = False,
    slow_readers: Annotated[
        str,
        typer.Option(metavar="SHARE", help="How many clients read their picture at 2 kB/s.", rich_help_panel=CLIENTS),
    ] = "0%",
    download: Annotated[
        bool, typer.Option("--download/--no-download", help="Read the finished picture.", rich_help_panel=CLIENTS)
    ] = True,
    timeout: Annotated[
        str,
        typer.Option(
            metavar=DURATION, help="A try-on without an end after this is counted unreachable.", rich_help_panel=CLIENTS
        ),
    ] = "120s",
    connections: Annotated[
        int,
        typer.Option(
            min=1, max=20000, help="At most so many at once; one per try-on on its way.", rich_help_panel=CLIENTS
        ),
    ] = 1000,
    p50: options.P50 = None,
    p95: options.P95 = None,
    p99: options.P99 = None,
    availability: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Succeeded over succeeded, failed, expired, refused and unreachable.",
            rich_help_panel=options.OBJECTIVES,
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Ended with 429 or 503, after every retry.", rich_help_panel=options.OBJECTIVES
        ),
    ] = None,
    max_gave_up: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Left by impatient clients.", rich_help_panel=options.OBJECTIVES)
    ] = None,
    reject_within: Annotated[
        str | None,
        typer.Option(metavar=DURATION, help="99% of the rejections are faster.", rich_help_panel=options.OBJECTIVES),
    ] = None,
    min_goodput: Annotated[
        float | None, typer.Option(help="Pictures a second.", rich_help_panel=options.OBJECTIVES)
    ] = None,
    max_late: Annotated[
        str,
        typer.Option(
            metavar=DURATION,
            help="The run is invalid when 1% of the try-ons were sent later than this after they were due.",
            rich_help_panel=options.OBJECTIVES,
        ),
    ] = "100ms",
    html: options.Html = Path("loadtest.html"),
    json_file: options.JsonFile = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Put every single try-on into the JSON.", rich_help_panel=options.REPORT)
    ] = False,
    title: options.Title = "Load test",
    metrics_url: Annotated[
        str | None,
        typer.Option(
            help="The service's /metrics, for the queue's depth; default URL/metrics, '' for none.",
            rich_help_panel=options.REPORT,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.", rich_help_panel=options.REPORT)] = False,
) -> None:
    """Offer traffic to a running service, open loop, and judge the answers.

    Arrivals do not wait for answers; latency counts from the moment a try-on was due.

    Exit code: 0 every objective met (or none set), 1 one missed, 130 after Ctrl-C, which still writes the report.

    [bold]Examples[/]

    Two try-ons a second for a minute, and what must hold:

      changeroom loadtest replay --rate 2 --p95 8s --availability 99.9% --max-rejected 5%

    A sale: 1/s, then 20/s falling off; people wait 30 s at most and come again once:

      changeroom loadtest replay --shape flash-sale --peak-rate 20 --duration 5m --patience 30s --retries 1

    The busiest quarter hour of a recorded day, ten times as fast:

      changeroom loadtest replay --trace day.csv --busiest --speed 10 --duration 90s --json run.json
    """
    from loadtests.replay.client import Manners
    from loadtests.replay.run import Files, Target, main
    from loadtests.replay.verdict import Objectives, seconds, share
    from loadtests.traffic.photos import wardrobe
    from loadtests.traffic.traffic import Traffic, asked

    def time(option: str, text: str | None) -> float | None:
        return None if text is None else read(option, seconds, text)

    def part(option: str, text: str | None) -> float | None:
        return None if text is None else read(option, share, text)

    traffic = Traffic(
        shape=shape.value,
        rate=rate,
        duration_s=time("--duration", duration),
        cv=cv,
        peak_to_trough=peak_to_trough,
        period_s=time("--period", period),
        peak_rate=peak_rate,
        sale_at_s=time("--sale-at", sale_at),
        decay_s=time("--decay", decay),
        trace=trace,
        speed=speed,
        start_s=time("--from", start) or 0.0,
        busiest=busiest,
        images=images.value,
        seed=seed,
        asked=read("--garments, --sizes, --priorities", lambda _: asked(garments, sizes, priorities), ""),
    )
    manners = Manners(
        patience_s=time("--patience", patience),
        impatient=read("--impatient", share, impatient),
        retries=retries,
        rude=rude,
        timeout_s=read("--timeout", seconds, timeout),
        download=download,
        slow_readers=read("--slow-readers", share, slow_readers),
    )
    objectives = Objectives(
        p50_s=time("--p50", p50),
        p95_s=time("--p95", p95),
        p99_s=time("--p99", p99),
        availability=part("--availability", availability),
        max_rejected=part("--max-rejected", max_rejected),
        max_gave_up=part("--max-gave-up", max_gave_up),
        reject_within_s=time("--reject-within", reject_within),
        min_goodput=min_goodput,
        max_late_s=read("--max-late", seconds, max_late),
    )
    base = url.rstrip("/")
    metrics = f"{base}/metrics" if metrics_url is None else metrics_url
    told = {
        "url": base,
        "arrivals": traffic.sentence(),
        "garments": "as the trace says" if trace and images is options.Meanings.garments else garments,
        "sizes": sizes,
        "priorities": priorities,
        "photos": photos,
        "patience": f"{patience} for {impatient} of the clients" if patience else "never gives up",
        "retries": f"{retries}{', rude: Retry-After is ignored' if rude else ''}",
        "slow readers": slow_readers,
        "connections": str(connections),
        "seed": str(seed),
    }
    code = main(
        traffic.arrivals(),
        Target(base, _key(key), metrics, connections),
        wardrobe(photos),
        manners,
        objectives,
        Files(json_file, html, rows, title),
        seed=seed,
        settings=told,
        quiet=quiet,
    )
    raise typer.Exit(code)
