"""Take docs/top.png beside a running service: `python tests/service/top/take_picture.py URL DATA docs/top.png`.

Watches for half a minute, then draws the last frame as a terminal would show it.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from pathlib import Path

from rich.console import Console

from deploy.grafana.sheet import photograph
from service.jobs.embedded import socket_path_for
from service.jobs.queue import JobQueue
from service.settings import load_settings
from service.top.frame import frame
from service.top.history import History
from service.top.reading import Watcher

WATCHED_S, INTERVAL_S, COLUMNS, WIDTH = 30, 2, 112, 1200


async def watch(url: str, data: Path) -> History:
    queue = await JobQueue.connect(load_settings(redis_url=f"unix://{socket_path_for(data)}", store_timeout_s=5))
    watcher = Watcher([url], queue)
    history = History()
    for _ in range(WATCHED_S // INTERVAL_S):
        history.add(await watcher.read())
        await asyncio.sleep(INTERVAL_S)
    await watcher.close()
    return history


def main(url: str, data: Path, output: Path) -> None:
    history = asyncio.run(watch(url, data))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(frame(history, "http://localhost:8000"))
    drawn = console.export_svg(title="changeroom top")
    (width, height) = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    shown = round(WIDTH * height / width)
    page = f"<style>body {{ margin: 0; background: white }} svg {{ width: {WIDTH}px }}</style>{drawn}"
    photograph(page, shown, output, WIDTH)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
