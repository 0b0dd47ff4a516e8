"""A panel as HTML and SVG, close to how Grafana draws it: title, axis with units, lines, limits, legend."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from deploy.grafana.panels import Panel
from deploy.grafana.prometheus import Line, Span

PALETTE = (
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a",
)  # fmt: skip
NAMED = {
    "green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "yellow": "#f2cc0c",
    "purple": "#b877d9", "transparent": "none",
}  # fmt: skip
HEAD, LEGEND_LINE, AXIS, FOOT, LEFT, RIGHT = 28, 18, 20, 6, 56, 14
LETTER = 6.2
TEXT = "#9fa3ab"


@dataclass(frozen=True)
class Frame:
    """The plot's rectangle in pixels, and what its corners mean."""

    width: float
    height: float
    span: Span
    top: float

    def x(self, at: float) -> float:
        return LEFT + (at - self.span.start) / (self.span.end - self.span.start) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return FOOT + (1 - min(value, self.top) / self.top) * (self.height - FOOT - AXIS)


def worded(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, as on an axis."""
    if unit == "s":
        if value and abs(value) < 1 and decimals is None:
            return f"{_short(value * 1000)} ms"
        return f"{_short(value, decimals)} s"
    if unit == "percentunit":
        return f"{_short(value * 100, decimals)} %"
    if unit == "reqps":
        return f"{_short(value, decimals)}/s"
    if unit == "bytes":
        power = min(4, int(math.log2(value) // 10)) if value >= 1 else 0
        return f"{_short(value / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit == "short" and abs(value) >= 10_000:
        return f"{_short(value / 1000)} k"
    return _short(value, decimals)


def _short(value: float, decimals: int | None = None) -> str:
    return f"{value:.{decimals}f}" if decimals is not None else f"{round(value, 4):.4g}"


def ticks(top: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round values from 0 to at least `top`; integers when `whole`."""
    rough = max(1.0, top / count) if whole else top / count
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]


def drawn(panel: Panel, lines: Sequence[Line], span: Span, width: int, height: int) -> str:
    """The inside of a panel of this many pixels."""
    head = f'<h3 title="{escape(panel.about)}">{escape(panel.title)}</h3>'
    if not lines:
        why = "no worker with a GPU here" if panel.gpu_only else "no data"
        return f'{head}<p class="empty">{why}</p>'
    if panel.kind == "stat":
        return head + _stat(panel, lines[0], span, width, height - HEAD)
    if panel.kind == "heatmap":
        return head + _heatmap(panel, lines, span, width, height - HEAD)
    return head + _graph(panel, lines, span, width, height - HEAD)


def _stat(panel: Panel, line: Line, span: Span, width: int, height: int) -> str:
    value = line.points[-1][1]
    colour = NAMED[panel.base]
    for limit in panel.limits:
        if value >= limit.value:
            colour = NAMED[limit.colour]
    highest = max((value for _, value in line.points), default=0.0) or 1.0
    across = (span.end - span.start) or 1.0
    spots = [((at - span.start) / across * width, 34 * (1 - value / highest)) for at, value in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    area = f"{spots[0][0]:.1f},36 {path} {spots[-1][0]:.1f},36"
    spark = (
        f'<svg class="spark" width="{width}" height="36"><polygon points="{area}" fill="{colour}" opacity=".18"/>'
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1"/></svg>'
    )
    return f'<p class="big" style="color:{colour}">{worded(value, panel.unit, panel.decimals)}</p>{spark}'


def _graph(panel: Panel, lines: Sequence[Line], span: Span, width: int, height: int) -> str:
    lines = sorted(lines, key=lambda line: _order(panel, line))
    named = dict(panel.colours)
    colours = [
        NAMED[named[line.legend]] if line.legend in named else PALETTE[index % len(PALETTE)]
        for index, line in enumerate(lines)
    ]
    legend, rows = _legend([line.legend for line in lines], colours, width)
    layers = _stack(lines) if panel.stacked else [dict(line.points) for line in lines]
    highest = max(max(layer.values()) for layer in layers)
    near = [limit.value for limit in panel.limits if limit.value <= 1.6 * highest]
    marks = ticks(panel.top or max([highest * 1.05, *near]) or 1.0, whole=panel.decimals == 0)
    frame = Frame(width, height - rows * LEGEND_LINE - 8, span, marks[-1])
    shapes = _axes(frame, [(mark, worded(mark, panel.unit)) for mark in marks])
    below: dict[float, float] = {}
    for layer, colour in zip(layers, colours, strict=True):
        shapes += _curve(frame, layer, below if panel.stacked else None, colour, panel.stacked)
        below = layer
    for limit in panel.limits:
        if limit.value <= frame.top:
            y = frame.y(limit.value)
            shapes.append(
                f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{NAMED[limit.colour]}" '
                'stroke-dasharray="6 5" stroke-width="1"/>'
            )
    return f'<svg width="{width}" height="{frame.height}">{"".join(shapes)}</svg>{legend}'


def _order(panel: Panel, line: Line) -> tuple[int, str]:
    return (0 if len(panel.queries) == 1 else 1, line.legend if len(panel.queries) == 1 else "")


def _stack(lines: Sequence[Line]) -> list[dict[float, float]]:
    times = sorted({at for line in lines for at, _ in line.points})
    total = dict.fromkeys(times, 0.0)
    layers = []
    for line in lines:
        values = dict(line.points)
        total = {at: total[at] + values.get(at, 0.0) for at in times}
        layers.append(total)
    return layers


def _curve(
    frame: Frame, layer: dict[float, float], below: dict[float, float] | None, colour: str, stacked: bool
) -> list[str]:
    shapes = []
    for run in _runs(sorted(layer), frame.span.step):
        over = [f"{frame.x(at):.1f},{frame.y(layer[at]):.1f}" for at in run]
        floor = [f"{frame.x(at):.1f},{frame.y(below.get(at, 0.0) if below else 0.0):.1f}" for at in reversed(run)]
        shade = 0.55 if stacked else 0.07
        shapes.append(f'<polygon points="{" ".join(over + floor)}" fill="{colour}" opacity="{shade}"/>')
        shapes.append(f'<polyline points="{" ".join(over)}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    return shapes


def _runs(times: Sequence[float], step: float) -> list[list[float]]:
    """Times in stretches without a gap."""
    runs: list[list[float]] = []
    for at in times:
        if runs and at - runs[-1][-1] <= 1.5 * step:
            runs[-1].append(at)
        else:
            runs.append([at])
    return runs


def _axes(frame: Frame, marks: Sequence[tuple[float, str]]) -> list[str]:
    shapes = []
    for value, text in marks:
        y = frame.y(value)
        shapes.append(f'<line x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#2a2d33"/>')
        shapes.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end" fill="{TEXT}">{escape(text)}</text>')
    return shapes + _clock(frame)


def _clock(frame: Frame) -> list[str]:
    every = next(
        seconds for seconds in (10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 86400, 10**9)
        if (frame.span.end - frame.span.start) / seconds <= frame.width / 90
    )  # fmt: skip
    form = "%H:%M:%S" if every < 60 else "%H:%M"
    shapes = []
    at = math.ceil(frame.span.start / every) * every
    while at < frame.span.end:
        x = frame.x(at)
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{FOOT}" y2="{frame.height - AXIS}" stroke="#22252b"/>')
        text = time.strftime(form, time.gmtime(at))
        if x + len(text) * LETTER / 2 <= frame.width:
            shapes.append(
                f'<text x="{x:.1f}" y="{frame.height - 5:.1f}" text-anchor="middle" fill="{TEXT}">{text}</text>'
            )
        at += every
    return shapes


def _heatmap(panel: Panel, lines: Sequence[Line], span: Span, width: int, height: int) -> str:
    """Rates by bucket: the lines are cumulative by `le`; a darker cell is an emptier one."""
    bounds = sorted(lines, key=lambda line: float(line.labels["le"]))
    cumulative = [dict(line.points) for line in bounds]
    used = [index for index, line in enumerate(cumulative) if any(_own(cumulative, index, at) > 1e-9 for at in line)]
    shown = range(max(0, min(used, default=0) - 1), min(len(bounds), max(used, default=0) + 2))
    frame = Frame(width, height - 8, span, float(len(shown)))
    names = [(row + 1, _bound(bounds[index].labels["le"], panel.unit)) for row, index in enumerate(shown)]
    shapes = _axes(frame, [(0.0, ""), *((float(row), name) for row, name in names)])
    highest = max((_own(cumulative, index, at) for index in shown for at in cumulative[index]), default=0.0) or 1.0
    columns = max(1, round(10 / max(1e-9, frame.x(span.start + span.step) - frame.x(span.start))))
    wide = (frame.x(span.start + span.step) - LEFT) * columns
    for row, index in enumerate(shown):
        for number, at in enumerate(sorted(cumulative[index])):
            share = _own(cumulative, index, at) / highest
            if number % columns == 0 and share > 0 and frame.x(at) + wide <= width - RIGHT + 1:
                shapes.append(
                    f'<rect x="{frame.x(at):.1f}" y="{frame.y(row + 1) + 0.5:.1f}" width="{wide - 1:.1f}" '
                    f'height="{frame.y(row) - frame.y(row + 1) - 1:.1f}" fill="#ff9830" opacity="{share**0.5:.2f}"/>'
                )
    return f'<svg width="{width}" height="{frame.height}">{"".join(shapes)}</svg>'


def _own(cumulative: Sequence[dict[float, float]], index: int, at: float) -> float:
    before = cumulative[index - 1].get(at, 0.0) if index else 0.0
    return max(0.0, cumulative[index].get(at, 0.0) - before)


def _bound(le: str, unit: str) -> str:
    return "more" if le == "+Inf" else worded(float(le), unit)


def _legend(names: Sequence[str], colours: Sequence[str], width: int) -> tuple[str, int]:
    """The legend and how many lines it takes."""
    rows, used = 1, 0.0
    for name in names:
        needed = len(name) * LETTER + 34
        if used + needed > width - 24:
            rows, used = rows + 1, 0.0
        used += needed
    items = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(names, colours, strict=True)
    )
    return f'<div class="legend">{items}</div>', rows
