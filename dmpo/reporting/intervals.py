"""A mean over seeds with its 95% interval, for the few seeds that one can afford."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

__all__ = ["MeanInterval", "mean_interval", "student_t_quantile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInterval:
    """A mean over seeds, and how sure it is."""

    mean: float
    """Mean over seeds."""
    count: int
    """Seeds."""
    half_width: float | None
    """Half of the 95% interval, which is mean ± this; None with a single seed."""


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean with Student's 95% interval: mean ± t · s / √n.

    It is right for values that are normal over seeds; with three seeds t is 4.3, so that it is
    wide, as it should be.

    Args:
        values: One per seed, at least one.

    Example:
        >>> interval = mean_interval([0.4, 0.5, 0.6])
        >>> round(interval.mean, 6), round(interval.half_width, 3)
        (0.5, 0.248)
    """
    count = len(values)
    half = None
    if count > 1:
        half = student_t_quantile(count - 1) * stdev(values) / math.sqrt(count)
    return MeanInterval(mean=fmean(values), count=count, half_width=half)


def student_t_quantile(freedom: int, share: float = 0.95) -> float:
    """Return t such that Student's distribution has ``share`` of its mass in [−t, t].

    The distribution function of whole degrees of freedom is a finite sum (Abramowitz and Stegun
    1964, 26.7.3 and 26.7.4), which is inverted by bisection.

    Args:
        freedom: Degrees of freedom, at least 1.
        share: Mass in the middle, in (0, 1).

    Example:
        >>> round(student_t_quantile(2), 3)
        4.303
    """
    low, high = 0.0, math.pi / 2  # of the angle arctan(t / √freedom)
    for _ in range(60):
        middle = (low + high) / 2
        if _central_mass(middle, freedom) < share:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _central_mass(angle: float, freedom: int) -> float:
    """Return the mass of Student's distribution in [−t, t], t = √freedom · tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2 == 1
    term, total = (cosine if is_odd else 1.0), 0.0
    for index in range(2 if is_odd else 1, freedom, 2):
        total += term
        term *= cosine**2 * index / (index + 1)
    if is_odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
