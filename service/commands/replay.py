"""`changeroom loadtest replay`: the options; `loadtests.replay` does the work."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

Read = TypeVar("Read")


class Shape(StrEnum):
    """What traffic is generated."""

    poisson = "poisson"
    diurnal = "diurnal"
    flash_sale = "flash-sale"


class Images(StrEnum):
    """What a recorded number of images means here."""

    garments = "garments"
    requests = "requests"
    ignored = "ignored"


TRAFFIC = "Traffic"
TRACE = "Traffic from a recorded trace"
MIX = "What try-ons ask for"
CLIENTS = "How clients behave"
OBJECTIVES = "Objectives (exit code 1 when one is missed)"
REPORT = "Report"
DURATION = "DURATION"


def read(option: str, reader: Callable[[str], Read], text: str) -> Read:
    """`text` as `reader` understands it; what it does not is wrong usage (exit code 2)."""
    try:
        return reader(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _key(text: str | None) -> str | None:
    """A key as given, or read from the file of `@FILE`: a command line can be seen by others. Raises OSError."""
    return Path(text[1:]).read_text().strip() if text and text.startswith("@") else text


def replay(
    url: Annotated[str, typer.Option(help="The service, e.g. https://tryon.example.com")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None, typer.Option(help="API key, or @FILE to read it from a file; sent as Authorization: Bearer.")
    ] = None,
    shape: Annotated[Shape, typer.Option(help="Generated traffic.", rich_help_panel=TRAFFIC)] = Shape.poisson,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Try-ons a second (flash-sale: before the sale).", rich_help_panel=TRAFFIC)
    ] = 1.0,
    duration: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="Length of the run, e.g. 90s, 10m; default 60s, or all of a trace.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    cv: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=20.0,
            help="Burstiness: the coefficient of variation of intervals; 1 is Poisson, 4 very bursty, 0 a metronome.",
            rich_help_panel=TRAFFIC,
        ),
    ] = 1.0,
    peak_to_trough: Annotated[
        float, typer.Option(min=1.0, help="diurnal: the highest rate over the lowest.", rich_help_panel=TRAFFIC)
    ] = 10.0,
    period: Annotated[
        str | None,
        typer.Option(metavar=DURATION, help="diurnal: the length of a day; default: the run.", rich_help_panel=TRAFFIC),
    ] = None,
    peak_rate: Annotated[
        float | None,
        typer.Option(
            help="flash-sale: try-ons a second when the doors open; default 10 times --rate.", rich_help_panel=TRAFFIC
        ),
    ] = None,
    sale_at: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: when the doors open; default a quarter into the run.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            metavar=DURATION,
            help="flash-sale: the rush falls to 37% in this time; default an eighth of the run.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same traffic.", rich_help_panel=TRAFFIC)] = 0,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="CSV with offset_s and, optionally, images, garments, priority, size; or lora_request_trace of "
            "the public cluster-trace-v2026-GenAI as downloaded (.csv or .tar.gz).",
            rich_help_panel=TRACE,
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, help="Play the trace so many times as fast.", rich_help_panel=TRACE)
    ] = 1.0,
    start: Annotated[
        str | None, typer.Option("--from", metavar=DURATION, help="Skip so much of the trace.", rich_help_panel=TRACE)
    ] = None,
    busiest: Annotated[
        bool, typer.Option("--busiest", help="Play the busiest window that fills --duration.", rich_help_panel=TRACE)
    ] = False,
    images: Annotated[
        Images,
        typer.Option(
            help="What the trace's images are: garments of one try-on (at most 6), so many requests, or nothing.",
            rich_help_panel=TRACE,
        ),
    ] = Images.garments,
    garments: Annotated[
        str, typer.Option(metavar="N:SHARE,...", help="Garments in a try-on, 1 to 6.", rich_help_panel=MIX)
    ] = "1:0.5,2:0.3,3:0.2",
    sizes: Annotated[
        str,
        typer.Option(metavar="WxH:SHARE,...", help="Size of the picture; default is the model's.", rich_help_panel=MIX),
    ] = "default",
    priorities: Annotated[
        str, typer.Option(metavar="NAME:SHARE,...", help="high, normal and low.", rich_help_panel=MIX)
    ] = "normal",
    photos: Annotated[
        str,
        typer.Option(
            metavar="small|phone|DIR",
            help="Bundled drawings of a few kB, the same as 2-megapixel JPEGs, or a folder with person*.jpg and "
            "tops*.jpg, pants*.jpg ...",
            rich_help_panel=MIX,
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
    p50: Annotated[
        str | None,
        typer.Option(
            "--p50",
            metavar=DURATION,
            help="Median latency, from the moment a try-on was due.",
            rich_help_panel=OBJECTIVES,
        ),
    ] = None,
    p95: Annotated[
        str | None, typer.Option("--p95", metavar=DURATION, help="95% are faster.", rich_help_panel=OBJECTIVES)
    ] = None,
    p99: Annotated[
        str | None, typer.Option("--p99", metavar=DURATION, help="99% are faster.", rich_help_panel=OBJECTIVES)
    ] = None,
    availability: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Succeeded over succeeded, failed, expired, refused and unreachable.",
            rich_help_panel=OBJECTIVES,
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Ended with 429 or 503, after every retry.", rich_help_panel=OBJECTIVES),
    ] = None,
    max_gave_up: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Left by impatient clients.", rich_help_panel=OBJECTIVES)
    ] = None,
    reject_within: Annotated[
        str | None, typer.Option(metavar=DURATION, help="99% of the rejections are faster.", rich_help_panel=OBJECTIVES)
    ] = None,
    min_goodput: Annotated[float | None, typer.Option(help="Pictures a second.", rich_help_panel=OBJECTIVES)] = None,
    max_late: Annotated[
        str,
        typer.Option(
            metavar=DURATION,
            help="The run is invalid when 1% of the try-ons were sent later than this after they were due.",
            rich_help_panel=OBJECTIVES,
        ),
    ] = "100ms",
    html: Annotated[
        Path | None,
        typer.Option(help="Write the report with plots here: one file, readable offline.", rich_help_panel=REPORT),
    ] = Path("loadtest.html"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers here.", rich_help_panel=REPORT)
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Put every single try-on into the JSON.", rich_help_panel=REPORT)
    ] = False,
    title: Annotated[str, typer.Option(help="Title of the report.", rich_help_panel=REPORT)] = "Load test",
    metrics_url: Annotated[
        str | None,
        typer.Option(
            help="The service's /metrics, for the queue's depth; default URL/metrics, '' for none.",
            rich_help_panel=REPORT,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.", rich_help_panel=REPORT)] = False,
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
    from loadtests.client import Manners
    from loadtests.photos import wardrobe
    from loadtests.replay import Files, Target, main
    from loadtests.traffic import Traffic, asked
    from loadtests.verdict import Objectives, seconds, share

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
        "garments": "as the trace says" if trace and images is Images.garments else garments,
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
