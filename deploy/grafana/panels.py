"""What a dashboard is made of, and its JSON as Grafana reads it.

Only what the four dashboards use: stats, time series and heatmaps over one Prometheus. Sizes are in Grafana's grid:
24 columns, a row of 30 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "changeroom-prometheus"}
COLUMNS = 24
SCHEMA_VERSION = 41

Kind = Literal["stat", "timeseries", "heatmap"]
Unit = Literal["s", "reqps", "percentunit", "short", "bytes", "none"]


@dataclass(frozen=True)
class Query:
    """One PromQL expression; `legend` may hold {{label}}."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Limit:
    """A dashed line in a time series, and the colour of a stat from this value on."""

    value: float
    colour: str


@dataclass(frozen=True)
class Panel:
    """One panel. `base` colours a stat below its first limit, `colours` are of lines by legend, `top` is the highest
    value of the axis; `gpu_only` marks what has data only where a worker has a CUDA device.
    """

    title: str
    kind: Kind
    unit: Unit
    queries: tuple[Query, ...]
    width: int
    height: int
    about: str = ""
    stacked: bool = False
    limits: tuple[Limit, ...] = ()
    base: str = "green"
    colours: tuple[tuple[str, str], ...] = ()
    decimals: int | None = None
    top: float | None = None
    gpu_only: bool = False


class Row:
    """Panels under a heading; they flow to the next line at column 24."""

    def __init__(self, heading: str, *panels: Panel) -> None:
        self.heading = heading
        self.panels = panels


@dataclass(frozen=True)
class Dashboard:
    """`uid` is its address in Grafana."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


@dataclass(frozen=True)
class Place:
    """Where something lies in the grid."""

    x: int
    y: int
    width: int
    height: int

    def json(self) -> dict[str, int]:
        return {"x": self.x, "y": self.y, "w": self.width, "h": self.height}


def layout(dashboard: Dashboard) -> list[tuple[Place, Panel | str]]:
    """Headings and panels in reading order, with their places."""
    placed: list[tuple[Place, Panel | str]] = []
    y = 0
    for row in dashboard.rows:
        placed.append((Place(0, y, COLUMNS, 1), row.heading))
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append((Place(x, y, panel.width, panel.height), panel))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana's file provisioning takes it."""
    panels = []
    for number, (place, item) in enumerate(layout(dashboard), start=1):
        made = _heading(item) if isinstance(item, str) else _panel(item)
        panels.append({"id": number, "gridPos": place.json()} | made)
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["changeroom"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": [_alerts()]},
        "links": [
            {
                "type": "dashboards",
                "title": "Changeroom",
                "tags": ["changeroom"],
                "asDropdown": False,
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": panels,
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Changeroom.+", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "step": "30s",
    }


def _heading(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "targets": [_target(panel, index) for index in range(len(panel.queries))],
        "fieldConfig": {"defaults": _field(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
    }


def _target(panel: Panel, index: int) -> dict[str, Any]:
    query = panel.queries[index]
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
        "instant": False,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": panel.base if panel.kind == "stat" else "transparent", "value": None}]
    steps += [{"color": limit.colour, "value": limit.value} for limit in panel.limits]
    field: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.decimals is not None:
        field["decimals"] = panel.decimals
    if panel.top is not None:
        field["max"] = panel.top
    if panel.kind == "stat":
        field["color"] = {"mode": "thresholds"}
    if panel.kind == "timeseries":
        field["color"] = {"mode": "palette-classic"}
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 60 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        }
    return field


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": legend},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for legend, colour in panel.colours
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "textMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "reverse": False},
            "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "rowsFrame": {"layout": "auto"},
            "legend": {"show": False},
            "tooltip": {"mode": "single", "yHistogram": False},
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def lines(queries: Mapping[str, str]) -> tuple[Query, ...]:
    """Queries from expressions by legend."""
    return tuple(Query(expr, legend) for legend, expr in queries.items())
