"""Curves of several arms or runs as interactive charts: what the page's script is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmpo.reporting.curves import (
    MOST_POINTS,
    Band,
    curve_on_axis,
    mean_band,
    neighbour_means,
    thinned,
)
from dmpo.reporting.history import RunHistory

__all__ = ["Chart", "Line", "Panel", "chart_record"]

DIGITS = 5
"""Significant digits of a drawn value: more cannot be seen."""
POSITION_DIGITS = 7
"""The same of a position, which may be zoomed into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is drawn in one colour: the runs of an arm, or a single run."""

    name: str
    """Its name in the legend."""
    runs: Mapping[str, RunHistory]
    """By name (``seed 0``): thin lines, below the mean of them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A small picture of its own, beside the one in which any metric can be chosen."""

    title: str
    """What stands above it."""
    metrics: Mapping[str, str]
    """What is drawn in it, and what each is called in its legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Any metric of several lines against any axis."""

    axes: Mapping[str, str]
    """Axes of :data:`dmpo.reporting.history.AXES`, and their names in words; the first is shown
    at first."""
    metrics: Mapping[str, str]
    """Metrics, and their names in words; the first is shown at first."""
    lines: Sequence[Line]
    """In the order of the legend."""
    panels: Sequence[Panel] = ()
    """Small pictures that share axis, zoom and legend; may be none."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """What metrics mean, a sentence or two each; may lack some."""
    most_points: int = MOST_POINTS
    """Of a run's curve."""


def chart_record(chart: Chart) -> dict[str, Any]:
    """Return everything that the script draws, as plain JSON values.

    ``runs`` holds each run's values once: metrics that were logged at the same steps share a grid
    of positions on every axis. ``bands`` holds, by metric and axis, the mean of each line that has
    several runs, with their minimum and maximum, and null for a line with one.
    """
    several = any(len(line.runs) > 1 for line in chart.lines)
    return {
        "axes": dict(chart.axes),
        "metrics": dict(chart.metrics),
        "descriptions": dict(chart.descriptions),
        "panels": [
            {"title": panel.title, "metrics": dict(panel.metrics)} for panel in chart.panels
        ],
        "lines": [line.name for line in chart.lines],
        "runs": [
            {"line": index, "name": name, **_run_record(history, chart)}
            for index, line in enumerate(chart.lines)
            for name, history in line.runs.items()
        ],
        "bands": {
            metric: {
                axis: [_line_band(line, metric, axis) for line in chart.lines]
                for axis in chart.axes
            }
            for metric in chart.metrics
        }
        if several
        else {},
    }


def _run_record(history: RunHistory, chart: Chart) -> dict[str, Any]:
    """Return a run's values by metric: the number of a grid, and the values on it."""
    axes = {axis: history.axis(axis) for axis in chart.axes}
    grids: dict[tuple[int, ...], int] = {}
    values = {}
    for metric in chart.metrics:
        points = history.points(metric)
        if not points:
            continue
        steps = tuple(sorted(points))
        grid = grids.setdefault(steps, len(grids))
        means = neighbour_means([points[step] for step in steps], chart.most_points)
        values[metric] = [grid, _rounded(means, DIGITS)]
    return {
        "grids": [
            {axis: _positions(steps, places, chart.most_points) for axis, places in axes.items()}
            for steps in grids
        ],
        "values": values,
    }


def _positions(
    steps: Sequence[int], places: Mapping[int, float], most: int
) -> list[float | int | None]:
    """Return where steps lie on an axis, thinned like their values; null where it is unknown."""
    known = neighbour_means([float(step in places) for step in steps], most)
    means = neighbour_means([places.get(step, 0.0) for step in steps], most)
    rounded = _rounded(means, POSITION_DIGITS)
    return [x if share == 1 else None for x, share in zip(rounded, known, strict=True)]


def _line_band(line: Line, metric: str, axis: str) -> dict[str, list[float | int]] | None:
    if len(line.runs) < 2:
        return None
    curves = [
        thinned(curve_on_axis(history.points(metric), history.axis(axis)))
        for history in line.runs.values()
    ]
    return _band_record(mean_band(curves))


def _band_record(band: Band) -> dict[str, list[float | int]]:
    return {
        "x": _rounded(band.x, POSITION_DIGITS),
        "mean": _rounded(band.mean, DIGITS),
        "low": _rounded(band.low, DIGITS),
        "high": _rounded(band.high, DIGITS),
    }


def _rounded(values: Sequence[float], digits: int) -> list[float | int]:
    return [_short(float(f"{value:.{digits}g}")) for value in values]


def _short(value: float) -> float | int:
    """Return a whole number as one: it takes fewer characters."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
