"""Curves of runs and their mean over seeds: pure functions from points to points."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = ["Band", "Curve", "curve_on_axis", "mean_band", "neighbour_means", "thinned"]

MOST_POINTS = 200
"""Of a curve that is drawn: more cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one run, from left to right."""

    x: tuple[float, ...]
    """Positions, not falling."""
    y: tuple[float, ...]
    """A value at each."""


@dataclass(frozen=True, slots=True)
class Band:
    """Mean of several runs, and how far they lie apart."""

    x: tuple[float, ...]
    """Positions, rising."""
    mean: tuple[float, ...]
    """Mean of the runs at each."""
    low: tuple[float, ...]
    """The lowest of the runs at each."""
    high: tuple[float, ...]
    """The highest of the runs at each."""


def curve_on_axis(points: Mapping[int, float], axis: Mapping[int, float]) -> Curve:
    """Return the values of the steps whose position on an axis is known.

    Args:
        points: Value by step.
        axis: Position by step.
    """
    steps = sorted(step for step in points if step in axis)
    return Curve(tuple(axis[step] for step in steps), tuple(points[step] for step in steps))


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return a curve of at most so many points, each the mean of neighbours.

    Args:
        curve: Any number of points.
        most: At least 1; a curve with no more points stays as it is.
    """
    return Curve(neighbour_means(curve.x, most), neighbour_means(curve.y, most))


def neighbour_means(values: Sequence[float], most: int = MOST_POINTS) -> tuple[float, ...]:
    """Return at most so many values, each the mean of about as many neighbours.

    Args:
        values: Any number of them.
        most: At least 1; no more values than that stay as they are.
    """
    count = len(values)
    if count <= most:
        return tuple(values)
    cuts = [round(index * count / most) for index in range(most + 1)]
    return tuple(fmean(values[start:end]) for start, end in itertools.pairwise(cuts))


def mean_band(curves: Sequence[Curve], most: int = MOST_POINTS) -> Band:
    """Return mean, minimum and maximum of runs where all of them have got to.

    Between its points a run is taken to lie on the straight line. Where all runs have the same
    positions these are kept and nothing is interpolated.

    Args:
        curves: Of each seed; those without points are left out.
        most: Positions at most.
    """
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return Band((), (), (), ())
    start = max(curve.x[0] for curve in curves)
    end = min(curve.x[-1] for curve in curves)
    inside = {x for curve in curves for x in curve.x if start <= x <= end}
    places = sorted(inside)
    if len(places) > most:
        places = [places[round(n * (len(places) - 1) / (most - 1))] for n in range(most)]
    columns = [[_value_at(curve, x) for curve in curves] for x in places]
    return Band(
        tuple(places),
        tuple(map(fmean, columns)),
        tuple(map(min, columns)),
        tuple(map(max, columns)),
    )


def _value_at(curve: Curve, x: float) -> float:
    right = bisect_right(curve.x, x)
    if right == len(curve.x):
        return curve.y[-1]
    if right == 0:
        return curve.y[0]
    (x0, x1), (y0, y1) = curve.x[right - 1 : right + 1], curve.y[right - 1 : right + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
