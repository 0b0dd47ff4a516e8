"""`changeroom loadtest replay`: the command; `loadtests.replay.run` does the work."""

from __future__ import annotations

from pathlib import Path

import typer

from service.commands.option_groups import flattened
from service.commands.replay_options import (
    ArrivalOptions,
    ClientOptions,
    ObjectiveOptions,
    ReportOptions,
    ServiceOptions,
    TryOnOptions,
)
from service.commands.traffic import Meanings


@flattened
def replay(
    service: ServiceOptions,
    arriving: ArrivalOptions,
    asking: TryOnOptions,
    clients: ClientOptions,
    wanted: ObjectiveOptions,
    report: ReportOptions,
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
    from loadtests.replay.run import Files, Target, main
    from loadtests.traffic.photos import wardrobe

    traffic = arriving.traffic(asking)
    manners = clients.manners()
    objectives = wanted.objectives()
    url = service.url.rstrip("/")
    metrics = f"{url}/metrics" if report.metrics_url is None else report.metrics_url
    code = main(
        traffic.arrivals(),
        Target(url, _key(service.key), metrics, clients.connections),
        wardrobe(asking.photos),
        manners,
        objectives,
        Files(report.json_file, report.html, report.rows, report.title),
        seed=arriving.seed,
        settings=_told(url, arriving, asking, clients, traffic.sentence()),
        quiet=report.quiet,
    )
    raise typer.Exit(code)


def _key(text: str | None) -> str | None:
    """A key as given, or read from the file of `@FILE`: a command line can be seen by others. Raises OSError."""
    return Path(text[1:]).read_text().strip() if text and text.startswith("@") else text


def _told(
    url: str, arriving: ArrivalOptions, asking: TryOnOptions, clients: ClientOptions, sentence: str
) -> dict[str, str]:
    """The settings of a run as its report tells them."""
    as_recorded = arriving.trace and arriving.images is Meanings.garments
    return {
        "url": url,
        "arrivals": sentence,
        "garments": "as the trace says" if as_recorded else asking.garments,
        "sizes": asking.sizes,
        "priorities": asking.priorities,
        "photos": asking.photos,
        "patience": f"{clients.patience} for {clients.impatient} of the clients"
        if clients.patience
        else "never gives up",
        "retries": f"{clients.retries}{', rude: Retry-After is ignored' if clients.rude else ''}",
        "slow readers": clients.slow_readers,
        "connections": str(clients.connections),
        "seed": str(arriving.seed),
    }
