"""Weights in plain Python floats, one group at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax_weights(log_weights: Sequence[float]) -> list[float]:
    """Return N · softmax(ℓ)."""
    top = max(log_weights)
    shares = [math.exp(value - top) for value in log_weights]
    return [len(shares) * share / sum(shares) for share in shares]


def linear_weights(log_weights: Sequence[float]) -> list[float]:
    """Return 1 + ℓ − mean(ℓ)."""
    mean = sum(log_weights) / len(log_weights)
    return [1 + value - mean for value in log_weights]


def effective_sample_size(weights: Sequence[float]) -> float:
    """Return (Σw)² / (N Σw²)."""
    squares = sum(weight * weight for weight in weights)
    return sum(weights) ** 2 / (len(weights) * squares)


def largest_coefficient(
    log_weights: Sequence[float], threshold: float, c_min: float, c_max: float, steps: int = 4000
) -> float:
    """Return the largest c on a fine grid whose ESS meets the threshold, or ``c_min``."""
    best = c_min
    for step in range(steps + 1):
        c = c_min + (c_max - c_min) * step / steps
        weights = softmax_weights([c * value for value in log_weights])
        if effective_sample_size(weights) >= threshold:
            best = c
    return best


def advantages(rewards: Sequence[float], *, leave_one_out: bool, epsilon: float | None):
    """Return (r − mean)/(std + ε), token for token."""
    size = len(rewards)
    result = []
    for index, reward in enumerate(rewards):
        others = [r for n, r in enumerate(rewards) if n != index or not leave_one_out]
        result.append(reward - sum(others) / len(others))
    if epsilon is None:
        return result
    mean = sum(rewards) / size
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (size - 1))
    return [value / (deviation + epsilon) for value in result]
