"""Small multiples of lines on logarithmic axes, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's palette: told apart by colour-blind readers, too.
COLOURS = ("#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
WIDTH, HEIGHT = 176, 132
LEFT, TOP, GAP, ROW_GAP, LEGEND = 62, 46, 14, 50, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series with its range over seeds."""

    label: str
    points: Sequence[tuple[float, float, float, float]]
    """x, middle, lowest and highest y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]
    level: float | None = None
    """A dashed horizontal line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels that share their axes."""

    title: str
    x_label: str
    x_ticks: Sequence[float]
    is_x_logarithmic: bool
    panels: Sequence[Panel]


def figure(rows: Sequence[Row], labels: Sequence[str], *, y_label: str, y_range: tuple[int, int]):
    """Return an SVG; colours follow ``labels``; ``y_range`` in powers of ten."""
    columns = max(len(row.panels) for row in rows)
    width = LEFT + columns * (WIDTH + GAP) + 8
    height = LEGEND + len(rows) * (TOP + HEIGHT + ROW_GAP) - 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for n, label in enumerate(labels):
        x = LEFT + 136 * n
        parts.append(_path([(x, 16), (x + 24, 16)], COLOURS[n]) + _text(x + 30, 20, label))
    for n, row in enumerate(rows):
        top = LEGEND + n * (TOP + HEIGHT + ROW_GAP) + TOP
        parts.append(_text(LEFT, top - 26, row.title, weight="bold"))
        parts += _row(row, top, labels, y_label, y_range)
    return "\n".join([*parts, "</svg>", ""])


def _row(
    row: Row, top: float, labels: Sequence[str], y_label: str, y_range: tuple[int, int]
) -> list[str]:
    low, high = y_range
    parts = []
    middle = top + HEIGHT / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{escape(y_label)}</text>'
    )
    for n, panel in enumerate(row.panels):
        left = LEFT + n * (WIDTH + GAP)
        scale = _Scale(row, left, top, low, high)
        for power in range(low, high + 1):
            y = scale.y(10.0**power)
            parts.append(_path([(left, y), (left + WIDTH, y)], "#dddddd", width=0.8))
            if n == 0:
                parts.append(_text(left - 6, y + 4, _power(power), anchor="end"))
        for tick in row.x_ticks:
            x = scale.x(tick)
            parts.append(_path([(x, top + HEIGHT), (x, top + HEIGHT + 4)], "#888888", width=1))
            parts.append(_text(x, top + HEIGHT + 16, f"{tick:g}", anchor="middle"))
        parts.append(_text(left + WIDTH / 2, top + HEIGHT + 31, row.x_label, anchor="middle"))
        parts.append(_text(left, top - 8, panel.title))
        if panel.level is not None:
            y = scale.y(panel.level)
            parts.append(_path([(left, y), (left + WIDTH, y)], "#666666", width=1.2, dash="5 3"))
        parts += [_series(line, scale, COLOURS[labels.index(line.label)]) for line in panel.lines]
        parts.append(
            f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
            'stroke="#888888"/>'
        )
    return parts


class _Scale:
    def __init__(self, row: Row, left: float, top: float, low: int, high: int) -> None:
        self._row, self._left, self._top, self._low, self._high = row, left, top, low, high

    def x(self, value: float) -> float:
        first, last = self._row.x_ticks[0], self._row.x_ticks[-1]
        if self._row.is_x_logarithmic:
            value, first, last = math.log(value), math.log(first), math.log(last)
        return self._left + 8 + (WIDTH - 16) * (value - first) / (last - first)

    def y(self, value: float) -> float:
        power = math.log10(max(value, 10.0**self._low))
        return self._top + HEIGHT * (self._high - power) / (self._high - self._low)


def _series(line: Line, scale: _Scale, colour: str) -> str:
    upper = [(scale.x(x), scale.y(high)) for x, _, _, high in line.points]
    lower = [(scale.x(x), scale.y(low)) for x, _, low, _ in reversed(line.points)]
    band = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower])
    middle = [(scale.x(x), scale.y(y)) for x, y, _, _ in line.points]
    return f'<polygon points="{band}" fill="{colour}" opacity="0.15"/>' + _path(middle, colour)


def _path(
    points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.8, dash: str = ""
) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{steps}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _power(power: int) -> str:
    return f"{10.0**power:g}"
