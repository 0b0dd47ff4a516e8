"""The options that commands about traffic share: what arrives, what it asks for, what must hold, what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar, overload

import typer

Read = TypeVar("Read")

TRAFFIC = "Traffic"
TRACE = "Traffic from a recorded trace"
MIX = "What try-ons ask for"
OBJECTIVES = "Objectives (exit code 1 when one is missed)"
REPORT = "Report"
DURATION = "DURATION"
USUAL_GARMENTS = "1:0.5,2:0.3,3:0.2"


class Shapes(StrEnum):
    """What traffic is generated."""

    poisson = "poisson"
    diurnal = "diurnal"
    flash_sale = "flash-sale"


class Meanings(StrEnum):
    """What a recorded number of images means here."""

    garments = "garments"
    requests = "requests"
    ignored = "ignored"


Shape = Annotated[Shapes, typer.Option(help="Generated traffic.", rich_help_panel=TRAFFIC)]
Rate = Annotated[
    float, typer.Option(min=0.001, help="Try-ons a second (flash-sale: before the sale).", rich_help_panel=TRAFFIC)
]
Cv = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=20.0,
        help="Burstiness: the coefficient of variation of intervals; 1 is Poisson, 4 very bursty, 0 a metronome.",
        rich_help_panel=TRAFFIC,
    ),
]
PeakToTrough = Annotated[
    float, typer.Option(min=1.0, help="diurnal: the highest rate over the lowest.", rich_help_panel=TRAFFIC)
]
PeakRate = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="flash-sale: try-ons a second when the doors open; default 10 times --rate.",
        rich_help_panel=TRAFFIC,
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed, the same traffic.", rich_help_panel=TRAFFIC)]

Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV with offset_s and, optionally, images, garments, priority, size, service_s; or lora_request_trace of "
        "the public cluster-trace-v2026-GenAI as downloaded (.csv or .tar.gz).",
        rich_help_panel=TRACE,
    ),
]
Images = Annotated[
    Meanings,
    typer.Option(
        help="What the trace's images are: garments of one try-on (at most 6), so many requests, or nothing.",
        rich_help_panel=TRACE,
    ),
]
Speed = Annotated[float, typer.Option(min=0.001, help="Play the trace so many times as fast.", rich_help_panel=TRACE)]
Busiest = Annotated[
    bool, typer.Option("--busiest", help="Only the busiest window that fills --duration.", rich_help_panel=TRACE)
]

Garments = Annotated[
    str, typer.Option(metavar="N:SHARE,...", help="Garments in a try-on, 1 to 6.", rich_help_panel=MIX)
]
Priorities = Annotated[str, typer.Option(metavar="NAME:SHARE,...", help="high, normal and low.", rich_help_panel=MIX)]

P50 = Annotated[
    str | None,
    typer.Option(
        "--p50", metavar=DURATION, help="Median latency, from the moment a try-on was due.", rich_help_panel=OBJECTIVES
    ),
]
P95 = Annotated[str | None, typer.Option("--p95", metavar=DURATION, help="95% are faster.", rich_help_panel=OBJECTIVES)]
P99 = Annotated[str | None, typer.Option("--p99", metavar=DURATION, help="99% are faster.", rich_help_panel=OBJECTIVES)]


@dataclass(frozen=True)
class LatencyOptions:
    """Bounds of latency, as durations; None is not asked for."""

    p50: P50 = None
    p95: P95 = None
    p99: P99 = None


Html = Annotated[
    Path | None,
    typer.Option(help="Write the report with plots here: one file, readable offline.", rich_help_panel=REPORT),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the numbers here.", rich_help_panel=REPORT)]
Title = Annotated[str, typer.Option(help="Title of the report.", rich_help_panel=REPORT)]


def read(option: str, reader: Callable[[str], Read], text: str) -> Read:
    """`text` as `reader` understands it; what it does not is wrong usage (exit code 2)."""
    try:
        return reader(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@overload
def seconds(option: str, text: str) -> float: ...
@overload
def seconds(option: str, text: str | None) -> float | None: ...
def seconds(option: str, text: str | None) -> float | None:
    """A duration in seconds; None where none was given. Raises typer.BadParameter."""
    from loadtests.replay import verdict

    return None if text is None else read(option, verdict.seconds, text)


@overload
def share(option: str, text: str) -> float: ...
@overload
def share(option: str, text: str | None) -> float | None: ...
def share(option: str, text: str | None) -> float | None:
    """A share of 0 to 1; None where none was given. Raises typer.BadParameter."""
    from loadtests.replay import verdict

    return None if text is None else read(option, verdict.share, text)
