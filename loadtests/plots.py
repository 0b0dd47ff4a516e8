"""Small SVG plots: lines, stacked bars and ranges with axes, units, legends and a tooltip at every point.

A plot is a string of SVG that takes its colours from the CSS variables of the page around it (`--ink`, `--grid`,
`--c-NAME`), so that one file reads well in light and dark. No script, no font, nothing from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 860, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 14, 44
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

Number = float | None


@dataclass(frozen=True)
class Series:
    """One named line or layer: `values` one a point (None: a gap), `colour` the name of a CSS variable."""

    name: str
    colour: str
    values: Sequence[Number]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A value axis: its title with the unit, how to write a value, and bounds that must be inside."""

    title: str
    text: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    least: float = 1.0
    whole: bool = False


@dataclass(frozen=True)
class Rule:
    """A horizontal line at an objective."""

    value: float
    label: str


def nice_ticks(top: float, wanted: int = 5, whole: bool = False) -> list[float]:
    """Round ticks from 0 to at least `top`: steps of 1, 2 or 5 times a power of ten."""
    raw = max(top, 1e-9) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    step = max(1.0, step) if whole else step
    return [round(i * step, 12) for i in range(math.ceil(top / step - 1e-9) + 1)]


def time_ticks(length_s: float) -> tuple[list[float], Callable[[float], str]]:
    """Round moments of a run and how to write them: seconds, minutes or hours."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
    step = next((step for step in steps if length_s / step <= 9), 86_400 * math.ceil(length_s / 86_400 / 9))
    unit, word = next(((u, w) for u, w in ((3600, "h"), (60, "min"), (1, "s")) if step % u == 0))
    return [i * step for i in range(int(length_s // step) + 1)], lambda at: f"{at / unit:g} {word}" if at else "0"


def line_plot(
    label: str, at: Sequence[float], lines: Sequence[Series], axis: Axis, *, length_s: float, rules: Sequence[Rule] = ()
) -> str:
    """Lines over the time of a run. `label` is what a screen reader says."""
    values = [value for line in lines for value in line.values if value is not None]
    ticks = nice_ticks(max([axis.least, *values, *(rule.value for rule in rules)]), whole=axis.whole)
    frame = _Frame(length_s, ticks[-1])
    body = [_value_axis(frame, ticks, axis), _time_axis(frame)]
    for line in lines:
        body.append(_path(frame, at, line))
    body += [_rule(frame, rule) for rule in rules]
    body.append(_hovers(frame, at, lines, axis))
    return _svg(label, body)


def bar_plot(
    label: str, at: Sequence[float], width_s: float, layers: Sequence[Series], axis: Axis, *, length_s: float
) -> str:
    """Stacked bars over the time of a run, the first layer at the bottom."""
    sums = [sum(layer.values[i] or 0.0 for layer in layers) for i in range(len(at))]
    ticks = nice_ticks(max([axis.least, *sums]), whole=axis.whole)
    frame = _Frame(length_s, ticks[-1])
    body = [_value_axis(frame, ticks, axis), _time_axis(frame)]
    for i, moment in enumerate(at):
        below = 0.0
        x0, x1 = frame.x(moment), frame.x(min(moment + width_s, length_s))
        for layer in layers:
            value = layer.values[i] or 0.0
            if value:
                y1, y0 = frame.y(below + value), frame.y(below)
                body.append(
                    f'<rect class="mark" x="{x0 + 0.5:.1f}" y="{y1:.1f}" width="{max(1.0, x1 - x0 - 1):.1f}" '
                    f'height="{max(0.8, y0 - y1 - 0.6):.1f}" style="fill:var(--c-{layer.colour})"/>'
                )
                below += value
    body.append(_hovers(frame, at, layers, axis))
    return _svg(label, body)


@dataclass(frozen=True)
class Range:
    """One column of a range plot: a whisker from `low` to `high`, a bar from the middle to `upper`, and a count."""

    name: str
    count: int
    low: float
    middle: float
    upper: float
    high: float


def range_plot(label: str, ranges: Sequence[Range], axis: Axis, title: str, words: tuple[str, str, str, str]) -> str:
    """A column for each of `ranges`: whiskers low to high, a box from middle to upper, a stroke at the middle."""
    ticks = nice_ticks(max([axis.least, *(one.high for one in ranges)]))
    frame = _Frame(1.0, ticks[-1])
    body = [_value_axis(frame, ticks, axis)]
    slot = PLOT_W / max(len(ranges), 1)
    half = min(34.0, slot * 0.28)
    for i, one in enumerate(ranges):
        x = LEFT + slot * (i + 0.5)
        low, middle, upper, high = (frame.y(value) for value in (one.low, one.middle, one.upper, one.high))
        said = ", ".join(
            f"{word} {axis.text(value)}"
            for word, value in zip(words, (one.low, one.middle, one.upper, one.high), strict=True)
        )
        body.append(
            f'<g class="mark"><title>{escape(one.name)}: {escape(said)}, {one.count} try-ons</title>'
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            f'<line class="whisker" x1="{x - 9:.1f}" x2="{x + 9:.1f}" y1="{high:.1f}" y2="{high:.1f}"/>'
            f'<line class="whisker" x1="{x - 9:.1f}" x2="{x + 9:.1f}" y1="{low:.1f}" y2="{low:.1f}"/>'
            f'<rect x="{x - half:.1f}" y="{upper:.1f}" width="{2 * half:.1f}" height="{max(2.0, middle - upper):.1f}" '
            f'rx="2" style="fill:var(--c-blue-2)"/>'
            f'<line class="middle" x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
            f'<text class="value" x="{x + half + 6:.1f}" y="{upper + 4:.1f}">{escape(axis.text(one.upper))}</text></g>'
            f'<text class="tick" x="{x:.1f}" y="{TOP + PLOT_H + 17}" text-anchor="middle">{escape(one.name)}</text>'
        )
    body.append(
        f'<text class="title" x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>'
    )
    return _svg(label, body)


@dataclass(frozen=True)
class Column:
    """One place on the category axis of a column plot; a marked one is set off."""

    name: str
    marked: bool = False


def column_plot(
    label: str,
    columns: Sequence[Column],
    layers: Sequence[Series],
    axis: Axis,
    title: str,
    *,
    rules: Sequence[Rule] = (),
) -> str:
    """Bars side by side for each of `columns`, one a layer; values that are None leave their place empty."""
    values = [value for layer in layers for value in layer.values if value is not None]
    ticks = nice_ticks(max([axis.least, *values, *(rule.value for rule in rules)]), whole=axis.whole)
    frame = _Frame(1.0, ticks[-1])
    body = [_value_axis(frame, ticks, axis)]
    slot = PLOT_W / max(len(columns), 1)
    width = slot * 0.7 / max(len(layers), 1)
    for i, column in enumerate(columns):
        left = LEFT + slot * (i + 0.15)
        if column.marked:
            body.append(
                f'<rect x="{LEFT + slot * i:.1f}" y="{TOP}" width="{slot:.1f}" height="{PLOT_H}" '
                'style="fill:var(--grid);opacity:.45"/>'
            )
        for j, layer in enumerate(layers):
            value = layer.values[i]
            if value is None:
                continue
            y = frame.y(value)
            body.append(
                f'<rect class="mark" x="{left + j * width:.1f}" y="{y:.1f}" width="{max(1.0, width - 2):.1f}" '
                f'height="{max(0.8, frame.y(0) - y):.1f}" style="fill:var(--c-{layer.colour})">'
                f"<title>{escape(column.name)}: {escape(layer.name)} {escape(axis.text(value))}</title></rect>"
            )
        body.append(
            f'<text class="tick" x="{LEFT + slot * (i + 0.5):.1f}" y="{TOP + PLOT_H + 17}" text-anchor="middle">'
            f"{escape(column.name)}</text>"
        )
    body += [_rule(frame, rule) for rule in rules]
    body.append(
        f'<text class="title" x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>'
    )
    return _svg(label, body)


def legend(entries: Sequence[Series]) -> str:
    """The names of lines or layers beside their colours, as HTML."""
    items = "".join(
        f'<li><i class="{"dash" if one.dashed else "swatch"}" style="--c:var(--c-{one.colour})"></i>'
        f"{escape(one.name)}</li>"
        for one in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _rule(frame: _Frame, rule: Rule) -> str:
    y = frame.y(rule.value)
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="rule-label" x="{WIDTH - RIGHT - 4}" y="{y - 5:.1f}" text-anchor="end">'
        f"{escape(rule.label)}</text>"
    )


class _Frame:
    """From seconds and values to pixels."""

    def __init__(self, length: float, top: float) -> None:
        self.length, self.top = max(length, 1e-9), max(top, 1e-9)

    def x(self, at: float) -> float:
        return LEFT + PLOT_W * at / self.length

    def y(self, value: float) -> float:
        return TOP + PLOT_H * (1 - value / self.top)


def _svg(label: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">{"".join(body)}</svg>'
    )


def _value_axis(frame: _Frame, ticks: Sequence[float], axis: Axis) -> str:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        kind = "base" if tick == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(axis.text(tick))}</text>'
        )
    middle = TOP + PLOT_H / 2
    parts.append(
        f'<text class="title" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(axis.title)}</text>"
    )
    return "".join(parts)


def _time_axis(frame: _Frame) -> str:
    ticks, text = time_ticks(frame.length)
    parts = [
        f'<text class="tick" x="{frame.x(at):.1f}" y="{TOP + PLOT_H + 17}" text-anchor="middle">{text(at)}</text>'
        for at in ticks
    ]
    parts.append(
        f'<text class="title" x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 6}" text-anchor="middle">time since the start</text>'
    )
    return "".join(parts)


def _path(frame: _Frame, at: Sequence[float], line: Series) -> str:
    """Connected points; a gap breaks the line, and a point between two gaps becomes a dot."""
    runs: list[list[str]] = [[]]
    for moment, value in zip(at, line.values, strict=True):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{frame.x(moment):.1f} {frame.y(value):.1f}")
    style = f"--c:var(--c-{line.colour})"
    path = " ".join("M" + " L".join(run) for run in runs if len(run) > 1)
    dots = "".join(
        f'<circle class="dot" r="2.5" cx="{run[0].split()[0]}" cy="{run[0].split()[1]}" style="{style}"/>'
        for run in runs
        if len(run) == 1
    )
    kind = "mark line dashed" if line.dashed else "mark line"
    return (f'<path class="{kind}" d="{path}" style="{style}"/>' if path else "") + dots


def _hovers(frame: _Frame, at: Sequence[float], lines: Sequence[Series], axis: Axis) -> str:
    """An invisible column at every moment that has values, with what they are as its tooltip."""
    _, text = time_ticks(frame.length)
    edges = [frame.x(moment) for moment in at]
    parts = []
    for i, x in enumerate(edges):
        said = [f"{line.name}: {axis.text(value)}" for line in lines if (value := line.values[i]) is not None]
        if not said:
            continue
        left = LEFT if i == 0 else (edges[i - 1] + x) / 2
        right = WIDTH - RIGHT if i + 1 == len(edges) else (x + edges[i + 1]) / 2
        parts.append(
            f'<g class="hover"><rect x="{left:.1f}" y="{TOP}" width="{max(0.0, right - left):.1f}" height="{PLOT_H}"/>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + PLOT_H}"/>'
            f"<title>{escape(chr(10).join([f'at {text(at[i])}', *said]))}</title></g>"
        )
    return "".join(parts)
