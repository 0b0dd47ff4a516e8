"""Take docs/dashboards.png: `python tests/deploy/take_dashboards.py docs/dashboards.png [MINUTES]`.

Two nano workers under a load that rises, peaks beyond capacity and falls again; every panel then shows something.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from scraped_service import Visitors, scraped_service

from deploy.grafana.prometheus import Span
from deploy.grafana.sheet import POINTS, sheet

QUIET, WAVE, PEAK = 0.5, 1.0, 2.6
SCRAPE_S = 2


def hill(at: float, middle: float) -> float:
    """1 at the middle, near 0 a fifth of the whole away from it."""
    return math.exp(-(((at - middle) / 0.07) ** 2))


def main(output: Path, minutes: float) -> None:
    seconds = minutes * 60

    def rate(at: float) -> float:
        return QUIET + WAVE * hill(at / seconds, 0.25) + PEAK * hill(at / seconds, 0.6)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        service = stack.enter_context(
            scraped_service(Path(folder), workers=2, max_in_flight=16, scrape_s=SCRAPE_S)
        )
        with Visitors(service, rate) as visitors:
            started = time.time()
            time.sleep(seconds)
            end = time.time()
        sheet(service.prometheus, Span(started, end, max(SCRAPE_S, seconds / POINTS), 20.0), output)
    sys.stdout.write(f"{output} {visitors.statuses}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
