"""Shapes, axes and text of the documentation's pictures, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "HIDDEN",
    "INK",
    "ORANGE",
    "PURPLE",
    "SKY",
    "THERE",
    "Axes",
    "Sheet",
]

# Okabe and Ito's palette: told apart by colour-blind readers, too.
BLUE, ORANGE, GREEN, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7"
INK, GREY = "#1f2733", "#5b6675"
HIDDEN, THERE = "#c3cad4", "#bfe0f2"
"""Colours of a mask token, and of a token that an earlier pass revealed."""

_STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;fill:#1f2733}"
    ".s{font-size:11px}.m{fill:#5b6675}.b{font-weight:600}.w{fill:#fff}.c{text-anchor:middle}"
    ".e{text-anchor:end}.t{font-family:ui-monospace,Menlo,Consolas,monospace}"
    ".g{stroke:#dde1e7}.a{stroke:#8a94a3;fill:none}"
)
_ROOM = 18
"""Between the border and what is drawn."""


def number(value: float) -> str:
    """Return a coordinate with at most one decimal: more cannot be seen."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


@dataclass(slots=True)
class Sheet:
    """A light panel with rounded corners, which is readable on light and on dark pages.

    Args:
        width: Of what is drawn; the border comes on top.
        height: The same.
    """

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, **more: object
    ) -> None:
        """Draw a rectangle; underscores in the names of attributes become hyphens."""
        size = f'width="{number(width)}" height="{number(height)}"'
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" {size} fill="{fill}"{_attributes(more)}/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "", **more: object) -> None:
        """Write text; ``kind`` names styles: s small, m muted, b bold, c centred, e ends here."""
        named = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}"{named}{_attributes(more)}>'
            f"{escape(text, quote=False)}</text>"
        )

    def cells(self, fill: str, cells: Sequence[tuple[float, float, float, float]]) -> None:
        """Draw rectangles of one colour, each its left, top, width and height, as one shape."""
        if not cells:
            return
        steps = "".join(
            f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h-{number(width)}z"
            for x, y, width, height in cells
        )
        self.parts.append(f'<path d="{steps}" fill="{fill}"/>')

    def key(self, *entries: tuple[float, float, str, str]) -> None:
        """Say what colours mean: left, baseline, colour and text of each entry."""
        for x, y, colour, text in entries:
            self.rect(x, y - 10, 11, 11, colour, rx=2)
            self.text(x + 16, y, text, "s")

    def curve(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Draw a line through points, and the points."""
        self.line(points, colour)
        for point in points:
            self.dot(*point, colour)

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        width: float = 1.8,
        **more: object,
    ) -> None:
        """Draw a line through points."""
        steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(
            f'<polyline points="{steps}" fill="none" stroke="{colour}" '
            f'stroke-width="{number(width)}"{_attributes(more)}/>'
        )

    def dot(self, x: float, y: float, colour: str, radius: float = 4) -> None:
        """Draw a disc with a light rim, so that dots on top of each other stay apart."""
        self.parts.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{colour}" '
            'stroke="#fff"/>'
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        """Draw a straight arrow."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        tip = [
            (end[0] - 8 * math.cos(angle + turn), end[1] - 8 * math.sin(angle + turn))
            for turn in (-0.4, 0.4)
        ]
        self.line([start, end], colour, 1.6)
        self.line([tip[0], end, tip[1]], colour, 1.6)

    def svg(self, title: str) -> str:
        """Return the whole picture; ``title`` is what a screen reader says."""
        width, height = number(self.width + 2 * _ROOM), number(self.height + 2 * _ROOM)
        inner = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">\n'
            f"<title>{escape(title, quote=False)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect x="0.5" y="0.5" width="{number(self.width + 2 * _ROOM - 1)}" '
            f'height="{number(self.height + 2 * _ROOM - 1)}" rx="10" fill="#f7f8fa" '
            'stroke="#c8ced8"/>\n'
            f'<g transform="translate({_ROOM} {_ROOM})">\n{inner}\n</g>\n</svg>\n'
        )


def _attributes(more: dict[str, object]) -> str:
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """A pair of axes on a sheet."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    """First and last value."""
    y: tuple[float, float]
    """Lowest and highest value."""
    is_x_logarithmic: bool = False
    is_y_logarithmic: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies on the sheet."""
        across = _share(x, self.x, is_logarithmic=self.is_x_logarithmic)
        up = _share(y, self.y, is_logarithmic=self.is_y_logarithmic)
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def draw(
        self,
        sheet: Sheet,
        *,
        title: str,
        x_label: str,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
    ) -> None:
        """Draw grid, ticks and labels; the title says what y is."""
        bottom = self.top + self.height
        sheet.text(self.left, self.top - 10, title, "b")
        for tick in y_ticks:
            y = self.at(self.x[0], tick)[1]
            sheet.line([(self.left, y), (self.left + self.width, y)], "#dde1e7", 1)
            sheet.text(self.left - 7, y + 4, f"{tick:g}".replace("-", "−"), "s m e")
        for tick in x_ticks:
            x = self.at(tick, self.y[0])[0]
            sheet.line([(x, bottom), (x, bottom + 4)], "#8a94a3", 1)
            sheet.text(x, bottom + 17, f"{tick:g}", "s m c")
        sheet.line([(self.left, bottom), (self.left + self.width, bottom)], "#8a94a3", 1)
        sheet.text(self.left + self.width / 2, bottom + 34, x_label, "s m c")


def _share(value: float, ends: tuple[float, float], *, is_logarithmic: bool) -> float:
    first, last = ends
    if is_logarithmic:
        value, first, last = math.log(value), math.log(first), math.log(last)
    return (value - first) / (last - first)
