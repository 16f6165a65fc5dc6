"""Losses in plain Python loops."""

from __future__ import annotations

import math


def wdce(weights, cross_entropies, masks, estimator: str = "reference") -> float:
    """Return mean_n w_n · L̂_n/D from cross-entropies [R, N, D] and masks [R, N, D]."""
    num_draws, num_rows, length = cross_entropies.shape
    total = 0.0
    for row in range(num_rows):
        estimate = 0.0
        for draw in range(num_draws):
            hidden = [d for d in range(length) if masks[draw, row, d]]
            numerator = length if estimator == "reference" else length + 1
            factor = numerator / max(len(hidden), 1)
            estimate += factor * sum(float(cross_entropies[draw, row, d]) for d in hidden)
        total += float(weights[row]) * estimate / num_draws / length
    return total / num_rows


def clipped_surrogate(log_ratio: float, advantage: float, low: float, high: float) -> float:
    """Return min(ρA, clip(ρ)·A) of one token."""
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def k3(log_prob: float, reference: float) -> float:
    """Return exp(d) − d − 1, d = log π_ref − log π_θ."""
    difference = reference - log_prob
    return math.exp(difference) - difference - 1
