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
    "k3_divergence",
    "masked_token_mean",
    "weighted_denoising_cross_entropy",
    "weighted_discriminative_loss",
]


def weighted_denoising_cross_entropy(
    log_likelihood: Float[Tensor, " S"],
    weights: Float[Tensor, " S"],
    lengths: Int[Tensor, " S"],
    num_rows: int,
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
    num_rows: int,
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


def clipped_surrogate(
    log_ratio: Float[Tensor, "S D"],
    advantages: Float[Tensor, " S"],
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Float[Tensor, "S D"]:
    """Return min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) of each token, to be maximised (PPO, GRPO).

    Args:
        log_ratio: log ρ = log π_θ − log π_v of each token, in nats.
        advantages: A of each row.
        epsilon_low: Clip range below 1.
        epsilon_high: Clip range above 1.
    """
    ratio = log_ratio.exp()
    advantage = advantages.unsqueeze(-1)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return torch.minimum(ratio * advantage, clipped * advantage)


def is_clipped(
    log_ratio: Float[Tensor, "S D"],
    advantages: Float[Tensor, " S"],
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Bool[Tensor, "S D"]:
    """Return where the clip binds, so that a token gives no gradient."""
    ratio = log_ratio.exp()
    advantage = advantages.unsqueeze(-1)
    too_high = (ratio > 1 + epsilon_high) & (advantage > 0)
    too_low = (ratio < 1 - epsilon_low) & (advantage < 0)
    return too_high | too_low


def is_outside(
    log_ratio: Float[Tensor, "S D"], *, epsilon_low: float, epsilon_high: float
) -> Bool[Tensor, "S D"]:
    """Return where the ratio has left [1−ε_low, 1+ε_high], whether the clip binds or not."""
    ratio = log_ratio.exp()
    return (ratio > 1 + epsilon_high) | (ratio < 1 - epsilon_low)


def k3_divergence(
    log_probs: Float[Tensor, "S D"], reference_log_probs: Float[Tensor, "S D"]
) -> Float[Tensor, "S D"]:
    """Return exp(d) − d − 1, d = log π_ref − log π_θ: never negative, KL(π_θ‖π_ref) in mean."""
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1


def masked_token_mean(
    values: Float[Tensor, "S D"], where: Bool[Tensor, "S D"], num_tokens: float
) -> Float[Tensor, ""]:
    """Return Σ values at ``where`` over the buffer's number of tokens."""
    return (values * where).sum() / max(num_tokens, 1)
