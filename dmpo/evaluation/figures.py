"""A mean with its 95% interval, from the grades of each problem; and pass@k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

__all__ = ["Figure", "pass_at_k", "pooled", "powers_up_to", "summarize", "wilson_interval"]

Z_95 = 1.959963984540054
"""Quantile of the standard normal at 97.5%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Mean of one figure over problems, and how sure it is."""

    mean: float
    """Mean over problems."""
    count: int
    """Problems it was taken over: the independent observations."""
    standard_error: float
    """Standard error of ``mean`` over problems; 0 where all agree or there is one."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a proportion (Wilson 1927).

    Unlike mean ± 1.96 standard errors it stays within [0, 1] and is right at 0 and 1.

    Args:
        mean: Share of successes, in [0, 1].
        count: Independent trials, at least 1.

    Returns:
        Lower and upper end.

    Example:
        >>> low, high = wilson_interval(0.0, 10)
        >>> low, round(high, 4)
        (0.0, 0.2775)
    """
    spread = Z_95**2 / count
    centre = (mean + spread / 2) / (1 + spread)
    half = math.sqrt(mean * (1 - mean) * spread + spread**2 / 4) / (1 + spread)
    # The interval holds the mean; at 0 and 1 rounding would put its end a hair inside.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def summarize(groups: Sequence[Sequence[float]]) -> Figure:
    """Return the mean over problems of the mean over each problem's samples.

    Samples of one problem are not independent, so the problem is the unit: one 0/1 grade per
    problem gets Wilson's interval, anything else mean ± 1.96 standard errors over problems.

    Args:
        groups: For each problem, the grades of its samples; at least one of each.

    Returns:
        Mean, standard error and interval.
    """
    values = [fmean(group) for group in groups]
    count, mean = len(values), fmean(values)
    error = stdev(values) / math.sqrt(count) if count > 1 else 0.0
    if all(len(group) == 1 and group[0] in (0.0, 1.0) for group in groups):
        low, high = wilson_interval(mean, count)
    else:
        low, high = mean - Z_95 * error, mean + Z_95 * error
    return Figure(mean=mean, count=count, standard_error=error, low=low, high=high)


def pooled(groups: Sequence[Sequence[float]], sizes: Sequence[int]) -> Figure:
    """Return the share of right questions, where a problem's grade is a share of its questions.

    Σ nᵢ·yᵢ / Σ nᵢ, a ratio estimate: its standard error is that of nᵢ·(yᵢ − ratio) over
    problems, divided by the mean of nᵢ (Cochran 1977, §6.4).

    Args:
        groups: For each problem, the grades of its samples in [0, 1].
        sizes: nᵢ, the questions of each problem.

    Returns:
        Ratio, standard error and interval; ``count`` is that of problems.
    """
    values = [fmean(group) for group in groups]
    total, count = sum(sizes), len(values)
    mean = sum(n * y for n, y in zip(sizes, values, strict=True)) / total
    residuals = [n * (y - mean) for n, y in zip(sizes, values, strict=True)]
    error = stdev(residuals) * math.sqrt(count) / total if count > 1 else 0.0
    low, high = max(0.0, mean - Z_95 * error), min(1.0, mean + Z_95 * error)
    return Figure(mean=mean, count=count, standard_error=error, low=low, high=high)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Return the chance that k of a problem's samples hold a right one, without bias.

    1 − C(n − c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1), in whole numbers.

    Args:
        num_samples: n, at least 1.
        num_right: c, of them.
        k: From 1 to n.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def powers_up_to(num_samples: int) -> list[int]:
    """Return 1, 2, 4, … and ``num_samples``: the k that pass@k is told for."""
    powers = [2**i for i in range(num_samples.bit_length())]
    return sorted({*powers, num_samples})
