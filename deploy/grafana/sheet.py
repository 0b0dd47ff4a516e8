"""Every dashboard on one PNG, from any Prometheus that has the service's metrics and rules, without Grafana.

`python -m deploy.grafana.sheet --prometheus http://127.0.0.1:9090 --minutes 15 -o dashboards.png`
For a report, or to look at what Grafana would show. Needs Chromium (or Chrome) to turn the page into a picture.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from deploy.grafana.__main__ import ALL
from deploy.grafana.drawing import drawn
from deploy.grafana.panels import COLUMNS, Dashboard, Place, layout
from deploy.grafana.prometheus import Prometheus, PrometheusError, Span

WIDTH, CELL, GAP, TITLE, BORDER = 1680, 30, 8, 64, 16
POINTS = 240
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px Inter, "DejaVu Sans", sans-serif; position: relative }
.panel, .heading, header { position: absolute; box-sizing: border-box; overflow: hidden }
.panel { background: #181b1f; border: 1px solid #26292f; border-radius: 3px }
.heading { font-size: 14px; font-weight: 600; padding: 5px 4px }
header h2 { font-size: 22px; margin: 18px 4px 0; font-weight: 600 }
header small { font-size: 13px; font-weight: 400; color: #9fa3ab; margin-left: 14px }
h3 { font-size: 13px; font-weight: 500; margin: 0; padding: 7px 10px 5px; height: 16px; white-space: nowrap }
svg { display: block } svg text { font-size: 11px }
.legend { padding: 2px 12px; line-height: 18px } .legend span { margin-right: 14px; white-space: nowrap }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 6px }
.legend i { vertical-align: middle }
.big { font-size: 30px; font-weight: 600; margin: 4px 0 0; text-align: center }
.spark { position: absolute; bottom: 0; left: 0 }
.empty { color: #6e7480; text-align: center; margin-top: 60px }
"""


class SheetError(Exception):
    """The picture cannot be made; the message is one line that says what to do."""


def page(prometheus: Prometheus, span: Span) -> tuple[str, int]:
    """The HTML of all dashboards, one below the other, and its height in pixels. Raises PrometheusError."""
    parts: list[str] = []
    y = 0
    for dashboard in ALL:
        html, height = _dashboard(dashboard, prometheus, span, y)
        parts.append(html)
        y += height
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><body>{"".join(parts)}</body>', y + BORDER


def _dashboard(dashboard: Dashboard, prometheus: Prometheus, span: Span, y: int) -> tuple[str, int]:
    head = f"<h2>{escape(dashboard.title)}<small>{escape(dashboard.about)}</small></h2>"
    parts = [f'<header style="left:{BORDER}px;top:{y}px;width:{WIDTH - 2 * BORDER}px;height:{TITLE}px">{head}</header>']
    bottom = 0
    for place, item in layout(dashboard):
        left, top, width, height = _pixels(place)
        bottom = max(bottom, top + height)
        box = f"left:{left}px;top:{y + TITLE + top}px;width:{width}px;height:{height}px"
        if isinstance(item, str):
            parts.append(f'<div class="heading" style="{box}">{escape(item)}</div>')
        else:
            inside = drawn(item, prometheus.panel(item, span), span, width - 2, height - 2)
            parts.append(f'<div class="panel" style="{box}">{inside}</div>')
    return "".join(parts), TITLE + bottom + BORDER


def _pixels(place: Place) -> tuple[int, int, int, int]:
    column = (WIDTH - 2 * BORDER) / COLUMNS
    left, right = round(BORDER + place.x * column), round(BORDER + (place.x + place.width) * column)
    return left, place.y * CELL, right - left - GAP, place.height * CELL - GAP


def photograph(html: str, height: int, output: Path, width: int = WIDTH) -> None:
    """The page as a PNG of this many pixels. Raises SheetError."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SheetError("Chromium is missing (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        source.write_text(html)
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking",
            f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={shot}",
            source.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as error:
            raise SheetError(f"{browser} took longer than {error.timeout:.0f} s") from error
        if not shot.is_file():
            raise SheetError(f"{browser} made no picture: {done.stderr.strip().splitlines()[-1:]}")
        shutil.copyfile(shot, output)


def sheet(url: str, span: Span, output: Path) -> None:
    """Draw all dashboards over `span` into `output`. Raises PrometheusError or SheetError."""
    prometheus = Prometheus(url)
    try:
        html, height = page(prometheus, span)
    finally:
        prometheus.close()
    photograph(html, height, output)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.sheet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=15.0, help="how far to look back")
    parser.add_argument("--window", type=float, default=20.0, help="seconds of $__rate_interval: 4 scrapes")
    parser.add_argument("-o", "--output", type=Path, default=Path("dashboards.png"))
    given = parser.parse_args(words)
    end = time.time()
    span = Span(end - given.minutes * 60, end, max(1.0, given.minutes * 60 / POINTS), given.window)
    try:
        sheet(given.prometheus, span, given.output)
    except (PrometheusError, SheetError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{given.output.absolute()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
