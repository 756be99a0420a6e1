"""Line and dot charts as SVG, with the same bytes on every machine, light or dark as the reader prefers.

Colours are CSS classes defined in `chart.css`, so charts follow the reader's colour scheme, in a page and as
separate files. Series differ by marker or dashes as well as by colour.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from importlib import resources
from typing import Literal

from verydeep.printable import printable

WIDTH, HEIGHT = 420, 300
"""Size of a panel in SVG units: legible at 360 pixels."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 28, 46
_KEY_LINE, _LETTER = 17, 6.3
"""Line height of the key, and approximate width of a letter in it."""
_LONGEST = 50
"""Largest number of letters of a label in the key; of a longer one, only the end is shown."""
HUES = 8


@dataclass(frozen=True)
class Point:
    """A value, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Tooltip."""


@dataclass(frozen=True)
class Series:
    """The values of one line or kind of marker."""

    label: str
    points: tuple[Point, ...]
    hue: int = 0
    """Index of one of the `HUES` colours."""
    kind: Literal["curve", "marks", "joined"] = "curve"
    """A line with its interval as a band; markers with whiskers; or markers with whiskers, joined by a line."""
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """One of the two axes."""

    label: str
    ticks: tuple[tuple[float, str], ...] = ()
    """Positions and labels of the ticks; derived from the values if empty."""
    span: tuple[float, float] | None = None
    """Ends of the axis; derived from the values if None."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Panel:
    """A chart."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]

    def summary(self) -> str:
        """Describe the chart for screen readers: each series with its last value."""
        ends = [f"{each.label} ends at {_short(each.points[-1].y)}" for each in self.series if each.points]
        return f"{self.title}: {self.y.label} against {self.x.label}; {', '.join(ends) or 'nothing yet'}."


@cache
def style() -> str:
    """Return the style sheet of charts (CSS)."""
    return resources.files("verydeep.experiments.pages").joinpath("chart.css").read_text(encoding="utf-8")


def drawn(panel: Panel, x: int = 0, y: int = 0) -> str:
    """Draw a panel as an `svg` element for a page, or at a position within another `svg` element."""
    title = _escaped(panel.title)
    place = f' x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"' if x or y else ""
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}"{place} role="img" aria-label="{title}">'
    return "\n".join([head, f"<desc>{_escaped(panel.summary())}</desc>", *_content(panel), "</svg>"])


def sheet(panels: Sequence[Panel], columns: int = 3) -> str:
    """Draw panels side by side as a self-contained SVG file."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = columns * WIDTH, rows * HEIGHT
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>\n{style()}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
    ]
    for number, panel in enumerate(panels):
        place = f"translate({number % columns * WIDTH} {number // columns * HEIGHT})"
        parts += [f'<g class="chart" transform="{place}">', *_content(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def same_length(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Give panels vertical axes that span equal ranges, so that equal differences look equal in all of them."""
    ends = [_span(panel.y, [value for each in panel.series for value in _heights(each)]) for panel in panels]
    half = max((high - low) / 2 for low, high in ends)
    spans = [((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ends]
    return tuple(replace(panel, y=replace(panel.y, span=span)) for panel, span in zip(panels, spans, strict=True))


def _escaped(text: str) -> str:
    return escape(printable(text))


# From values to places


@dataclass(frozen=True)
class _Scale:
    """The position of a value along an axis."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> str:
        return f"{self.place(value):.1f}"

    def place(self, value: float) -> float:
        low, high = self._measure(self.low), self._measure(self.high)
        return self.start + (self._measure(value) - low) / (high - low) * (self.end - self.start)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def _heights(series: Series) -> Iterator[float]:
    for point in series.points:
        yield from (value for value in (point.y, point.low, point.high) if value is not None)


def _span(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: its own, or those of the values with some margin."""
    if axis.span is not None:
        return axis.span
    values = [*values, *(value for value, _ in axis.ticks)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if axis.logarithmic:
        return low / 2, high * 2
    room = 0.06 * (high - low) or max(abs(high) * 0.1, 0.5)
    return (0.0 if 0 <= low < room else low - room), high + room


def _ticks(axis: Axis, low: float, high: float) -> tuple[tuple[float, str], ...]:
    if axis.ticks:
        return axis.ticks
    if axis.logarithmic:
        powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        factors = (1, 2, 5) if len(powers) <= 3 else (1,)
        places = (float(f"{factor}e{power}") for power in powers for factor in factors)
        return tuple((place, f"{place:g}") for place in places if low <= place <= high)
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple((number * step, f"{number * step:.{digits}f}") for number in range(first, last + 1))


def _short(value: float) -> str:
    return f"{value:.3g}"


# Drawing


def _content(panel: Panel) -> Iterator[str]:
    key, key_height = _key(panel.series)
    top = _TOP + key_height
    values = [value for each in panel.series for value in _heights(each)]
    places = [point.x for each in panel.series for point in each.points]
    low, high = _span(panel.y, values)
    x = _Scale(*_span(panel.x, places), float(_LEFT), float(WIDTH - _RIGHT), panel.x.logarithmic)
    y = _Scale(low, high, float(HEIGHT - _BOTTOM), float(top), panel.y.logarithmic)
    yield f'<text class="title" x="{_LEFT}" y="18">{_escaped(panel.title)}</text>'
    yield from key
    for value, label in _ticks(panel.y, low, high):
        yield f'<path class="line-of-grid" d="M{_LEFT} {y(value)}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="tick y" x="{_LEFT - 6}" y="{y.place(value) + 4:.1f}">{_escaped(label)}</text>'
    for value, label in _ticks(panel.x, x.low, x.high):
        yield f'<text class="tick x" x="{x(value)}" y="{HEIGHT - _BOTTOM + 17}">{_escaped(label)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text class="label x" x="{middle:.1f}" y="{HEIGHT - 8}">{_escaped(panel.x.label)}</text>'
    height = (top + HEIGHT - _BOTTOM) / 2
    turned = f"translate(13 {height:.1f}) rotate(-90)"
    yield f'<text class="label x" transform="{turned}">{_escaped(panel.y.label)}</text>'
    if not values:
        yield f'<text class="label x" x="{middle:.1f}" y="{height:.1f}">not yet</text>'
    for number, each in enumerate(panel.series):
        yield from _series(each, number, x, y)


def _key(series: Sequence[Series]) -> tuple[list[str], int]:
    """Return the key of a panel with several series, and its height."""
    if len(series) < 2:
        return [], 0
    parts, x, line = [], float(_LEFT), 0
    for number, each in enumerate(series):
        label = each.label if len(each.label) <= _LONGEST else f"…{each.label[1 - _LONGEST :]}"
        width = 26 + _LETTER * len(label) + 12
        if x > _LEFT and x + width > WIDTH:
            x, line = float(_LEFT), line + 1
        middle = float(_TOP + line * _KEY_LINE + 5)
        if each.kind != "marks":
            parts.append(f'<path class="{_look(each, "curve")}" d="M{x:.1f} {middle:.1f}h20"/>')
        if each.kind != "curve":
            parts.append(_marker(each, number, x + 10, middle))
        parts.append(f'<text class="key" x="{x + 25:.1f}" y="{middle + 4:.1f}">{_escaped(label)}</text>')
        x += width
    return parts, (line + 1) * _KEY_LINE + 4


def _look(series: Series, what: str) -> str:
    return f"{what} hue-{series.hue % HUES}{' dashed' if series.dashed else ''}"


def _series(series: Series, number: int, x: _Scale, y: _Scale) -> Iterator[str]:
    points = series.points
    banded = [point for point in points if point.low is not None and point.high is not None]
    if series.kind == "curve" and len(banded) > 1:
        above = [f"{x(point.x)} {y(point.high or 0)}" for point in banded]
        below = [f"{x(point.x)} {y(point.low or 0)}" for point in reversed(banded)]
        yield f'<path class="{_look(series, "band")}" d="M{"L".join(above + below)}Z"/>'
    if series.kind != "marks" and len(points) > 1:
        line = "L".join(f"{x(point.x)} {y(point.y)}" for point in points)
        yield f'<path class="{_look(series, "curve")}" d="M{line}"/>'
    if series.kind == "curve" and len(points) > 1:
        return
    for point in points:
        if point.low is not None and point.high is not None:
            ends = f"M{x(point.x)} {y(point.low)}V{y(point.high)}"
            yield f'<path class="{_look(series, "whisker")}" d="{ends}"/>'
        yield _marker(series, number, x.place(point.x), y.place(point.y), point.note)


def _marker(series: Series, number: int, x: float, y: float, note: str = "") -> str:
    """Draw a marker, with a shape that distinguishes the series from its neighbours."""
    shape = number % 4
    outline = {
        0: "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
        1: "m-4-4h8v8h-8z",
        2: "m0-5.5l5 9h-10z",
        3: "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    }[shape]
    told = f"<title>{_escaped(note)}</title>" if note else ""
    return f'<path class="{_look(series, "mark")}" d="M{x:.1f} {y:.1f}{outline}">{told}</path>'
