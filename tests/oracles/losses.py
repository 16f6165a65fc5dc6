"""Losses in plain Python loops."""

from __future__ import annotations

import math
from dataclasses import dataclass


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


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a ratio is taken of: factors of token log-probabilities [(view, token, factor), …]."""

    factors: list[tuple[int, int, float]]
    weight: float
    size: int

    def value(self, log_probs):
        return sum(factor * log_probs[r][d] for r, d, factor in self.factors)


def units_of_row(level: str, coefficient, length: int) -> list[list[Unit]]:
    """Return the units of a row, by views where they belong to one; coefficient [R][D]."""
    views = range(len(coefficient))
    places = [[d for d, c in enumerate(coefficient[r]) if c] for r in views]
    terms = [[(r, d, coefficient[r][d]) for d in places[r]] for r in views]
    everything = [term for of_view in terms for term in of_view]
    if level == "view_token":
        return [
            [Unit(factors=[(r, d, 1.0)], weight=c, size=1) for r, d, c in terms[r]]
            for r in views
            if terms[r]
        ]
    if level == "token":
        tokens = sorted({d for _, d, _ in everything})
        return [
            [Unit(factors=[t for t in everything if t[1] == d], weight=1, size=1) for d in tokens]
        ]
    if level == "view":
        return [[Unit(factors=terms[r], weight=1, size=len(terms[r])) for r in views if terms[r]]]
    if level == "draw":
        scaled = [[(r, d, c * len(coefficient)) for r, d, c in terms[r]] for r in views]
        return [[Unit(factors=scaled[r], weight=1, size=length) for r in views]]
    return [[Unit(factors=everything, weight=1, size=length)]]


def normalised(rows, normalisation: str, canvas: int):
    """Return what ``reduced`` says it does, from (value, weight) by rows, views and units."""
    if normalisation in ("token", "canvas"):
        units = [unit for views in rows for view in views for unit in view]
        weight = sum(w for _, w in units) if normalisation == "token" else len(rows) * canvas
        return sum(v * w for v, w in units) / weight
    if normalisation == "response":
        rows = [[[unit for view in views for unit in view]] for views in rows]
    means = [[sum(v * w for v, w in u) / sum(w for _, w in u) for u in views] for views in rows]
    return sum(sum(of_row) / len(of_row) for of_row in means if of_row) / len(rows)


def unit_surrogate(x, advantage, low, high, dual_clip, bounded: bool):
    """Return the clipped surrogate of one unit; ``bounded``: BGPO's bound of the ratio."""
    ratio = 1 + x if bounded and advantage > 0 else x.exp()
    value = min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return max(value, dual_clip * advantage) if dual_clip and advantage < 0 else value


def unit_divergence(kind: str, x):
    """Return k1, k2 or k3 of one unit, x = log π_θ − log π'."""
    return {"k1": x, "k2": x * x / 2, "k3": (-x).exp() + x - 1}[kind]


def ratio_loss(
    log_probs,
    behaviour,
    other,
    coefficient,
    advantages,
    lengths,
    *,
    level: str,
    normalisation: str,
    divides: bool = False,
    low: float = 0.2,
    high: float = 0.2,
    dual_clip: float | None = None,
    bounded: bool = False,
    beta: float = 0.0,
    divergence: str = "k3",
):
    """Return a family's loss, unit by unit, from tensors [S, R, D] (advantages [S] or [S, R])."""
    surrogates, divergences = [], []
    for s, length in enumerate(lengths):
        of_row, away_of_row = [], []
        for units in units_of_row(level, coefficient[s].tolist(), length):
            values, away = [], []
            for unit in units:
                size = unit.size if divides else 1
                x = unit.value(log_probs[s] - behaviour[s]) + 0 * log_probs.sum()
                y = unit.value(log_probs[s] - other[s]) + 0 * log_probs.sum()
                view = unit.factors[0][0] if unit.factors else 0
                advantage = advantages[s] if advantages.dim() == 1 else advantages[s, view]
                value = unit_surrogate(x / size, advantage, low, high, dual_clip, bounded)
                values.append((value, unit.weight))
                away.append((unit_divergence(divergence, y) / size, unit.weight))
            of_row.append(values)
            away_of_row.append(away)
        surrogates.append(of_row)
        divergences.append(away_of_row)
    canvas = coefficient.shape[-1]
    return -normalised(surrogates, normalisation, canvas) + beta * normalised(
        divergences, normalisation, canvas
    )


def policy_gradient_loss(
    log_probs, coefficient, advantages, lengths, *, level: str, normalisation: str, divides: bool
):
    """Return minus the normalised sum of A · log π of the units: REINFORCE, no ratio anywhere."""
    rows = []
    for s, length in enumerate(lengths):
        of_row = []
        for units in units_of_row(level, coefficient[s].tolist(), length):
            values = []
            for unit in units:
                view = unit.factors[0][0] if unit.factors else 0
                advantage = advantages[s] if advantages.dim() == 1 else advantages[s, view]
                size = unit.size if divides else 1
                values.append((advantage * unit.value(log_probs[s]) / size, unit.weight))
            of_row.append(values)
        rows.append(of_row)
    return -normalised(rows, normalisation, coefficient.shape[-1])
