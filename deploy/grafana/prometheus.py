"""What a Prometheus answers to a panel: lines over time, with Grafana's variables and legends filled in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import httpx

from deploy.grafana.panels import Panel, Query


class PrometheusError(Exception):
    """Prometheus refused a query or did not answer; the message is one line."""


@dataclass(frozen=True)
class Span:
    """The time asked for, Unix seconds, every `step` seconds; `window` is what $__rate_interval becomes."""

    start: float
    end: float
    step: float
    window: float


@dataclass(frozen=True)
class Line:
    """One series: its legend, its labels and (Unix seconds, value) points, NaN and infinities left out."""

    legend: str
    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """A client of one server."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=30, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def panel(self, panel: Panel, span: Span) -> list[Line]:
        """The lines of all queries of a panel, those without a single number left out. Raises PrometheusError."""
        return [line for query in panel.queries for line in self.query(query, span)]

    def query(self, query: Query, span: Span) -> list[Line]:
        """The lines of one query. Raises PrometheusError."""
        expr = query.expr.replace("$__rate_interval", f"{span.window:.0f}s")
        if "$" in expr:
            raise PrometheusError(f"a variable that is not known here: {expr}")
        asked = {"query": expr, "start": f"{span.start:.3f}", "end": f"{span.end:.3f}", "step": f"{span.step:.3f}"}
        try:
            answer = self._client.post(f"{self._url}/api/v1/query_range", data=asked)
            content = answer.json()
        except (httpx.TransportError, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer as Prometheus does ({error})") from error
        if content.get("status") != "success":
            raise PrometheusError(f"{content.get('error', answer.status_code)}: {expr}")
        lines = [_line(query, row["metric"], row["values"]) for row in content["data"]["result"]]
        return [line for line in lines if line.points]


def _line(query: Query, labels: dict[str, str], values: list[tuple[float, str]]) -> Line:
    legend = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend)
    points = ((float(at), float(value)) for at, value in values)
    return Line(legend, labels, tuple(point for point in points if math.isfinite(point[1])))
