"""Slow, plain versions of what fine-tuning and evaluation compute."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

TokenLoss = Callable[[frozenset[int], int], float]
"""−log π of a position, given the set of hidden positions."""


def negative_elbo(length: int, token_loss: TokenLoss) -> float:
    """Mean over m of D/m times the mean over sets of size m of the hidden tokens' losses."""
    by_size = []
    for size in range(1, length + 1):
        sets = [frozenset(each) for each in itertools.combinations(range(length), size)]
        sums = [sum(token_loss(hidden, d) for d in hidden) for hidden in sets]
        by_size.append(length / size * sum(sums) / len(sums))
    return sum(by_size) / length


def wilson_by_search(successes: int, count: int, z: float) -> tuple[float, float]:
    """The proportions p that the score test does not reject: |p̂ − p| ≤ z·√(p(1 − p)/n)."""
    observed = successes / count
    accepted = [
        p
        for p in (i / 20_000 for i in range(20_001))
        if abs(observed - p) <= z * math.sqrt(p * (1 - p) / count) + 1e-12
    ]
    return accepted[0], accepted[-1]


def distinct_right_answers(answers: Sequence[Sequence[tuple[str, bool]]]) -> float:
    """Distinct right answers of each problem, averaged over problems."""
    total = 0
    for group in answers:
        seen: list[str] = []
        for answer, is_right in group:
            if is_right and answer not in seen:
                seen.append(answer)
        total += len(seen)
    return total / len(answers)
