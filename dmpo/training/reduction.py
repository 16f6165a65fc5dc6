"""Figures of several processes as one: of everything they did together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

__all__ = ["reduced"]

EXTREMES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "weights/max": max,
    "weights/min": min,
    "weights/real_max": max,
    "weights/real_min": min,
}
"""Figures that are the most or the least of all."""
SUMS = ("tokens/", "flops/")
"""Beginnings of the names of what adds up."""
PER_TOKEN = ("rollout/entropy", "rollout/negative_log_prob")
"""Means over answer tokens, of which a process has as many as its rollouts are long."""
NOISE, SPREAD, FLAG = (
    "log_ratio/standard_error",
    "log_ratio/reward_spread",
    "log_ratio/noise_exceeds_reward",
)
"""A root mean square, what it is compared with, and which is larger."""


def reduced(
    figures: Sequence[Mapping[str, float]], sizes: Sequence[float] | None = None
) -> dict[str, float]:
    """Return each figure over all processes.

    Tokens and operations add up, extremes are extremes, everything else is a mean. A process that
    has no such figure, or NaN, has no say in it.

    Args:
        figures: One mapping from each process.
        sizes: What each process's figures are a mean of: rows, groups; None: all alike.
    """
    weights = [1.0] * len(figures) if sizes is None else list(sizes)
    names = dict.fromkeys(name for each in figures for name in each)
    found = {name: _reduced(name, figures, weights) for name in names}
    if "reward/std" in found:
        found["reward/std"] = _spread("reward/std", "reward/mean", figures, weights)
    if FLAG in found:
        squares = [{NOISE: each.get(NOISE, math.nan) ** 2} for each in figures]
        found[NOISE] = math.sqrt(_reduced(NOISE, squares, weights))
        found[FLAG] = float(found[NOISE] > found[SPREAD])
    return found


def _reduced(name: str, figures: Sequence[Mapping[str, float]], weights: Sequence[float]) -> float:
    if name in PER_TOKEN:
        pairs = zip(figures, weights, strict=True)
        weights = [size * each.get("rollout/length", 1.0) for each, size in pairs]
    said = [(each.get(name, math.nan), size) for each, size in zip(figures, weights, strict=True)]
    known = [(value, size) for value, size in said if not math.isnan(value)]
    values = [value for value, _ in known]
    if not known:
        return math.nan
    if name in EXTREMES:
        return EXTREMES[name](values)
    if name.startswith(SUMS):
        return math.fsum(values)
    total = math.fsum(size for _, size in known)
    if total == 0 or len(set(values)) == 1:
        return values[0]
    return math.fsum(value * size for value, size in known) / total


def _spread(
    spread: str, mean: str, figures: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> float:
    """Return the standard deviation over all from those inside each process, and the means."""
    said = [(each.get(spread, math.nan), each.get(mean, math.nan)) for each in figures]
    known = [(*pair, n) for pair, n in zip(said, weights, strict=True) if not math.isnan(sum(pair))]
    if not known:
        return math.nan
    centre = _reduced(mean, figures, weights)
    total = math.fsum(size for *_, size in known)
    squares = [size * (own**2 + (middle - centre) ** 2) for own, middle, size in known]
    return math.sqrt(math.fsum(squares) / total)
