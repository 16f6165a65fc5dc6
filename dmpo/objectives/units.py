"""What a probability ratio is taken of: tokens, views, draws, or whole responses.

| level | units | log-probability of a unit | weight of a unit |
| --- | --- | --- | --- |
| token | [S, D] | Σ_r coefficient · log π: one per token | 1 where a token counts |
| view_token | [S, R, D] | log π of one token in one view | its coefficient |
| view | [S, R] | Σ_d coefficient · log π: a denoising step | 1 where the view scores anything |
| draw | [S, R] | R times that: what one view says of the response | 1 |
| response | [S] | what the likelihood makes of all views | 1 |
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmpo.likelihoods.base import Likelihood, counted_coefficient
from dmpo.records import Views

__all__ = [
    "Level",
    "Normalisation",
    "reduced",
    "row_weights",
    "total_weight",
    "unit_log_probs",
    "unit_sizes",
    "unit_weights",
]

Level = Literal["token", "view_token", "view", "draw", "response"]
"""See the module."""
Normalisation = Literal["token", "response", "view", "canvas"]
"""What the sum over units is divided by; see :func:`reduced`."""


def unit_log_probs(
    level: Level,
    likelihood: Likelihood,
    token_log_probs: Float[Tensor, "S R D"],
    views: Views,
    *,
    num_views: int | None = None,
) -> Float[Tensor, "S ..."]:
    """Return the log-probability of each unit, in nats.

    Args:
        level: What units are.
        likelihood: Whose views these are.
        token_log_probs: log π on them.
        views: The views, or some of them.
        num_views: R, where these are only some of a row's views.
    """
    if level == "view_token":
        return token_log_probs
    if level == "view":
        return likelihood.combine_views(token_log_probs, views)
    if level == "draw":
        # The coefficients carry the mean over views, 1/R.
        whole = views.hidden.shape[-2] if num_views is None else num_views
        return whole * likelihood.combine_views(token_log_probs, views)
    if level == "response":
        return likelihood.combine(token_log_probs, views)
    return (counted_coefficient(views, token_log_probs) * token_log_probs).sum(-2)


def unit_weights(level: Level, coefficient: Float[Tensor, "*rows R D"]) -> Float[Tensor, " ..."]:
    """Return how much each unit counts.

    Args:
        level: What units are.
        coefficient: The views' own, or as far as the tokens are probable enough.
    """
    if level == "view_token":
        return coefficient
    if level == "draw":
        return torch.ones_like(coefficient[..., 0])
    if level == "response":
        return torch.ones_like(coefficient[..., 0, 0])
    return (coefficient != 0).any(-1 if level == "view" else -2).to(coefficient.dtype)


def unit_sizes(
    level: Level, coefficient: Float[Tensor, "S R D"], lengths: Int[Tensor, " S"]
) -> Float[Tensor, " ..."]:
    """Return how many tokens each unit is about, at least 1: [S, R] for views, else as lengths.

    Args:
        level: What units are.
        coefficient: See :func:`unit_weights`.
        lengths: D, the tokens of each response that count.
    """
    if level == "view":
        return (coefficient != 0).sum(-1).clamp(min=1).to(coefficient.dtype)
    if level == "draw":
        return lengths.clamp(min=1).to(coefficient).unsqueeze(-1)
    if level == "response":
        return lengths.clamp(min=1).to(coefficient)
    return coefficient.new_ones(())


def total_weight(level: Level, views: Views) -> float:
    """Return the weight of all units of a buffer."""
    return float(unit_weights(level, views.coefficient).double().sum())


def row_weights(
    level: Level, normalisation: Normalisation, coefficient: Float[Tensor, "*rows R D"]
) -> Float[Tensor, "*rows"]:
    """Return what the sum over a row's views is divided by in the normalisations that do."""
    weights = unit_weights(level, coefficient)
    if level == "view_token":
        of_view = weights.sum(-1)
        return ((of_view > 0).to(of_view.dtype) if normalisation == "view" else of_view).sum(-1)
    return weights if level == "response" else weights.sum(-1)


def reduced(
    values: Float[Tensor, "S ..."],
    weights: Float[Tensor, "S ..."],
    normalisation: Normalisation,
    *,
    num_rows: int | float,
    total: float,
    length: int,
    of_rows: Float[Tensor, " S"] | None = None,
) -> Float[Tensor, ""]:
    """Return the weighted sum over units, divided; slices of rows add up.

    ``token``: by the weight of the whole buffer, every unit alike (DAPO, 2503.14476).
    ``response``: by the weight of its response, then by the number of responses (GRPO).
    ``view``: by the weight of its view, then by the views of its response, then by the number of
    responses (TraceRL, 2509.06949). ``canvas``: by responses times canvas length, a constant
    (Dr. GRPO, 2503.20783).

    Args:
        values: One of each unit.
        weights: See :func:`unit_weights`.
        normalisation: By what.
        num_rows: Rows of the whole buffer.
        total: Weight of the whole buffer's units.
        length: Canvas length D.
        of_rows: From :func:`row_weights`, so that slices of views add up, too; None: what is
            given are all views of each row.
    """
    weighted = values * weights
    if normalisation == "token":
        return weighted.sum() / max(total, torch.finfo(torch.float32).tiny)
    if normalisation == "canvas":
        return weighted.sum() / (num_rows * length)
    if normalisation == "view" and values.dim() > 2:
        of_view = weights.sum(-1)
        weighted, weights = _quotient(weighted.sum(-1), of_view), (of_view > 0).to(weighted.dtype)
    if values.dim() > 1:
        weighted, weights = weighted.flatten(1).sum(-1), weights.flatten(1).sum(-1)
    return _quotient(weighted, weights if of_rows is None else of_rows).sum() / num_rows


def _quotient(numerator: Float[Tensor, "*any"], divisor: Float[Tensor, "*any"]) -> Tensor:
    """Return numerator / divisor, and 0 where nothing counts."""
    return numerator / torch.where(divisor == 0, torch.ones_like(divisor), divisor)
