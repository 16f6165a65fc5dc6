"""Curves of several arms as one interactive chart: what the page's script is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmpo.reporting.curves import Band, Curve, curve_on_axis, mean_band, thinned
from dmpo.reporting.history import RunHistory

__all__ = ["Chart", "Line", "chart_record"]

DIGITS = 5
"""Significant digits of a drawn number: more cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is drawn in one colour: the runs of an arm, or a single run."""

    name: str
    """Its name in the legend."""
    runs: Mapping[str, RunHistory]
    """By name (``seed 0``): thin lines, below the mean of them all."""


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


def chart_record(chart: Chart) -> dict[str, Any]:
    """Return everything that the script draws, as plain JSON values.

    ``panels`` holds, by metric and axis, one entry per line: the mean of its runs with their
    minimum and maximum, and each run's own points.
    """
    return {
        "axes": dict(chart.axes),
        "metrics": dict(chart.metrics),
        "lines": [line.name for line in chart.lines],
        "panels": {
            metric: {
                axis: [_drawn(line, metric, axis) for line in chart.lines] for axis in chart.axes
            }
            for metric in chart.metrics
        },
    }


def _drawn(line: Line, metric: str, axis: str) -> dict[str, Any]:
    curves = {
        name: thinned(curve_on_axis(history.points(metric), history.axis(axis)))
        for name, history in line.runs.items()
    }
    return {
        "mean": _band_record(mean_band(list(curves.values()))),
        "runs": {name: _curve_record(curve) for name, curve in curves.items() if curve.x},
    }


def _band_record(band: Band) -> dict[str, list[float]]:
    columns = {"x": band.x, "mean": band.mean, "low": band.low, "high": band.high}
    return {name: _rounded(values) for name, values in columns.items()}


def _curve_record(curve: Curve) -> dict[str, list[float]]:
    return {"x": _rounded(curve.x), "y": _rounded(curve.y)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
