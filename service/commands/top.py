"""`changeroom top`: queue, workers, latency by stage and refusals of a running service, in a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import CommandFailed

if TYPE_CHECKING:
    from rich.console import Console

    from service.settings import Settings
    from service.top.reading import Watcher


def top(
    url: Annotated[
        list[str] | None, typer.Option(help="A gateway's address, may be repeated; default: this machine's.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", help="The store; default REDIS_URL, or the one of --data.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data folder of `changeroom up`.")] = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, of two readings, and end.")] = False,
) -> None:
    """Watch a running service: queue, workers, latency by stage, refusals. Ctrl-C ends it.

    Example: changeroom top --url http://localhost:8000 --once
    """
    from rich.console import Console

    from service.settings import load_settings

    settings = load_settings(redis_url=redis_url, data_dir=data)
    urls = url or [f"http://127.0.0.1:{settings.port or 8000}"]
    try:
        asyncio.run(_watch(settings, urls, interval, once, Console()))
    except KeyboardInterrupt:
        raise typer.Exit from None


async def _watch(settings: Settings, urls: list[str], interval: float, once: bool, console: Console) -> None:
    from service.jobs.queue import JobQueue
    from service.top.reading import Watcher

    store = _store_address(settings)
    queue = await JobQueue.connect(settings.model_copy(update={"redis_url": store})) if store else None
    watcher = Watcher(urls, queue)
    try:
        await _show(watcher, " ".join(urls), interval, once, console)
    finally:
        await watcher.close()


async def _show(watcher: Watcher, sources: str, interval: float, once: bool, console: Console) -> None:
    from rich.live import Live

    from service.top.frame import frame
    from service.top.history import History

    history = History()
    history.add(await watcher.read())
    if history.now.empty:
        raise CommandFailed(f"{'; '.join(history.now.troubles)}; start the service with: changeroom up")
    if once or not console.is_terminal:
        while True:
            await asyncio.sleep(interval)
            history.add(await watcher.read())
            console.print(frame(history, sources))
            if once:
                return
    with Live(frame(history, sources), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval)
            history.add(await watcher.read())
            live.update(frame(history, sources), refresh=True)


def _store_address(settings: Settings) -> str | None:
    """The store that was named, or the embedded one of the data folder when it is there."""
    from service.jobs.embedded import socket_path_for

    if "redis_url" in settings.model_fields_set:
        return settings.redis_url
    path = socket_path_for(settings.data_dir)
    return f"unix://{path}" if path.exists() else None
