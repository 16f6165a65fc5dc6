"""The losses, row by row or token by token; normalisers are given, so slices add up."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = [
    "clipped_surrogate",
    "is_clipped",
    "is_outside",
    "k1_divergence",
    "k2_divergence",
    "k3_divergence",
    "preference_margins",
    "preference_weights",
    "weighted_denoising_cross_entropy",
    "weighted_discriminative_loss",
]


def weighted_denoising_cross_entropy(
    log_likelihood: Float[Tensor, " S"],
    weights: Float[Tensor, " S"],
    lengths: Int[Tensor, " S"],
    num_rows: int | float,
) -> Float[Tensor, ""]:
    """Return the mean over the buffer of w · L̂/D, L̂ = −log p̂ (WDCE, DMPO Eq. 11).

    Args:
        log_likelihood: Estimated log p_θ(o|q) of each row of a slice, in nats.
        weights: Real weights: weight minus λ times baseline; no gradient.
        lengths: D, the number of tokens that count.
        num_rows: Rows of the whole buffer, the normaliser.
    """
    return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows


def weighted_discriminative_loss(
    real_log_ratio: Float[Tensor, " S"],
    fake_log_ratio: Float[Tensor, " S"],
    weights: Float[Tensor, " S"],
    num_rows: int | float,
    *,
    beta: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Return −mean over the buffer of w·log σ(βΔ₁) + γ·log σ(−βΔ₂) (WDDO, DMPO Eq. 16).

    Weights have mean 1 in a group, so both terms weigh alike; the official code's sum to 1,
    which makes its first term N times smaller. It also adds replicates up where Δ wants their
    mean.

    Args:
        real_log_ratio: Δ₁ = log p̂_θ − log p̂_v in nats, on one half of the replicates.
        fake_log_ratio: Δ₂, the same on the other, independent half.
        weights: w; no gradient.
        num_rows: Rows of the whole buffer, the normaliser.
        beta: β, greater than 0.
        gamma: γ, at least 0.
    """
    real = weights * functional.logsigmoid(beta * real_log_ratio)
    fake = gamma * functional.logsigmoid(-beta * fake_log_ratio)
    return -(real + fake).sum() / num_rows


def preference_margins(
    log_ratio: Float[Tensor, " S"], pairs: Int[Tensor, "2 K"], beta: float
) -> Float[Tensor, " K"]:
    """Return β·(Δ(chosen) − Δ(rejected)) of each pair (DPO, 2305.18290; VRPO, 2505.19223).

    Args:
        log_ratio: Δ = log p̂_θ − log p̂_ref of each row, in nats.
        pairs: Rows of the chosen, and of the rejected ones.
        beta: β, greater than 0.
    """
    return beta * (log_ratio[pairs[0]] - log_ratio[pairs[1]])


def preference_weights(
    margins: Float[Tensor, " K"], pairs: Int[Tensor, "2 K"], num_rows: int, beta: float
) -> Float[Tensor, " S"]:
    """Return the factors of ∇log p̂_θ in minus the gradient of −mean log σ(margin).

    A pair adds β·σ(−margin)/K to its chosen row and takes as much from its rejected one, so that
    −Σ weight · log p̂_θ has DPO's gradient and is a sum over rows.

    Args:
        margins: See :func:`preference_margins`; no gradient.
        pairs: Rows of the chosen, and of the rejected ones.
        num_rows: S.
        beta: β, greater than 0.
    """
    slopes = beta * torch.sigmoid(-margins) / max(1, pairs.shape[1])
    weights = margins.new_zeros(num_rows)
    return weights.index_add(0, pairs[0], slopes).index_add(0, pairs[1], -slopes)


def clipped_surrogate(
    log_ratio: Float[Tensor, "S ..."],
    advantages: Float[Tensor, "S ..."],
    *,
    epsilon_low: float,
    epsilon_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "S ..."]:
    """Return min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) of each unit, to be maximised (PPO, GRPO).

    Args:
        log_ratio: log ρ = log π_θ − log π_v of each unit (a token, a view, a response), in nats.
        advantages: A of each row, or of each of its views.
        epsilon_low: Clip range below 1.
        epsilon_high: Clip range above 1.
        dual_clip: Where A < 0, bound the surrogate below by this times A (Ye et al. 2020,
            1912.09729); greater than 1. None: no bound.
    """
    ratio = log_ratio.exp()
    advantage = _beside(advantages, log_ratio)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    if dual_clip is None:
        return surrogate
    bounded = torch.maximum(surrogate, dual_clip * advantage)
    return torch.where(advantage < 0, bounded, surrogate)


def _beside(
    advantages: Float[Tensor, "S ..."], units: Float[Tensor, "S ..."]
) -> Float[Tensor, "S ..."]:
    """Return advantages with axes of length 1 for the axes that units have beyond them."""
    return advantages.reshape(*advantages.shape, *(1,) * (units.dim() - advantages.dim()))


def is_clipped(
    log_ratio: Float[Tensor, "S ..."],
    advantages: Float[Tensor, "S ..."],
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Bool[Tensor, "S ..."]:
    """Return where the clip binds, so that a unit gives no gradient."""
    ratio = log_ratio.exp()
    advantage = _beside(advantages, log_ratio)
    too_high = (ratio > 1 + epsilon_high) & (advantage > 0)
    too_low = (ratio < 1 - epsilon_low) & (advantage < 0)
    return too_high | too_low


def is_outside(
    log_ratio: Float[Tensor, "S ..."], *, epsilon_low: float, epsilon_high: float
) -> Bool[Tensor, "S ..."]:
    """Return where the ratio has left [1−ε_low, 1+ε_high], whether the clip binds or not."""
    ratio = log_ratio.exp()
    return (ratio > 1 + epsilon_high) | (ratio < 1 - epsilon_low)


def k3_divergence(
    log_probs: Float[Tensor, "S ..."], reference_log_probs: Float[Tensor, "S ..."]
) -> Float[Tensor, "S ..."]:
    """Return exp(d) − d − 1, d = log π_ref − log π_θ: never negative, KL(π_θ‖π_ref) in mean."""
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1


def k2_divergence(
    log_probs: Float[Tensor, "S ..."], reference_log_probs: Float[Tensor, "S ..."]
) -> Float[Tensor, "S ..."]:
    """Return ½·(log π_θ − log π_ref)²: its gradient is that of KL(π_θ‖π_ref) in mean."""
    return 0.5 * (log_probs - reference_log_probs).square()


def k1_divergence(
    log_probs: Float[Tensor, "S ..."], reference_log_probs: Float[Tensor, "S ..."]
) -> Float[Tensor, "S ..."]:
    """Return log π_θ − log π_ref: KL(π_θ‖π_ref) in mean, though its gradient is 0 in mean.

    As a loss on samples of π_θ it therefore pulls nowhere; it is there to compare with.
    """
    return log_probs - reference_log_probs
