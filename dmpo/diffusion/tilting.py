"""From rewards and log-ratios to weights: the tilted target, its links, its sample size.

The target is p*(o|q) ∝ p_ref(o|q) · exp(r/α) (DMPO Eq. 5); the rollouts came from p_v.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "effective_sample_size",
    "group_advantages",
    "group_softmax_weights",
    "largest_coefficient",
    "linear_weights",
    "proximal_log_weights",
    "tilted_log_weights",
]

_BISECTIONS = 60


def tilted_log_weights(
    rewards: Float[Tensor, "B N"], log_ratio: Float[Tensor, "B N"], alpha: float
) -> Float[Tensor, "B N"]:
    """Return r/α + log p_ref − log p_v, the log weights of the full step (DMPO Eq. 10).

    Args:
        rewards: r.
        log_ratio: log p_ref − log p_v in nats.
        alpha: Temperature of the target, greater than 0.
    """
    return rewards / alpha + log_ratio


def proximal_log_weights(
    log_weights: Float[Tensor, "B N"], coefficient: Float[Tensor, " B"]
) -> Float[Tensor, "B N"]:
    """Return c·ℓ: the proximal step towards p_v^(1−c) · (p_ref · exp(r/α))^c (DMPO Eq. 24)."""
    return coefficient.unsqueeze(-1) * log_weights


def group_softmax_weights(log_weights: Float[Tensor, "*groups N"]) -> Float[Tensor, "*groups N"]:
    """Return N · softmax(ℓ) over each group: non-negative, mean 1."""
    return torch.softmax(log_weights, dim=-1) * log_weights.shape[-1]


def linear_weights(log_weights: Float[Tensor, "*groups N"]) -> Float[Tensor, "*groups N"]:
    """Return 1 + ℓ − mean(ℓ) over each group: the softmax to first order, mean 1."""
    return 1 + log_weights - log_weights.mean(dim=-1, keepdim=True)


def effective_sample_size(weights: Float[Tensor, "*groups N"]) -> Float[Tensor, "*groups"]:
    """Return (Σw)² / (N Σw²), the share of a group that counts; 0 where all weights are 0.

    In [1/N, 1] for non-negative weights.
    """
    squares = weights.square().mean(-1)
    share = weights.mean(-1).square() / squares.clamp(min=torch.finfo(weights.dtype).tiny)
    return torch.where(squares > 0, share, torch.zeros_like(share))


def largest_coefficient(
    log_weights: Float[Tensor, "*groups N"], threshold: float, c_min: float, c_max: float
) -> Float[Tensor, "*groups"]:
    """Return the largest c in [c_min, c_max] whose weights keep an ESS of ``threshold``.

    The ESS of N · softmax(c·ℓ) falls as c grows, so bisection finds it. We bisect per group;
    the official code minimises a squared gap over the rows of a device.

    Args:
        log_weights: ℓ of the full step (c = 1), in nats.
        threshold: Wanted share of the group, in (0, 1].
        c_min: Taken where even it falls below the threshold; greater than 0.
        c_max: Taken where it still meets the threshold; at least ``c_min``.

    Returns:
        c for each group, in the dtype of ``log_weights``.
    """
    full = log_weights.double()

    def meets(coefficient: Float[Tensor, "*groups"]) -> Tensor:
        weights = group_softmax_weights(coefficient.unsqueeze(-1) * full)
        return effective_sample_size(weights) >= threshold

    low = torch.full_like(full[..., 0], c_min)
    high = torch.full_like(low, c_max)
    unbounded = meets(high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        good = meets(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    best = torch.where(unbounded, torch.full_like(low, c_max), low)
    return best.to(log_weights.dtype)


def group_advantages(
    rewards: Float[Tensor, "B N"],
    *,
    leave_one_out: bool = False,
    scale_epsilon: float | None = None,
    of_population: bool = False,
    floor: float = 0.0,
) -> Float[Tensor, "B N"]:
    """Return (r − mean) / max(std + ε, floor) over each group, the GRPO family's advantage.

    Args:
        rewards: r.
        leave_one_out: Take the mean of the other N − 1 rollouts, N at least 2.
        scale_epsilon: ε added to the group's standard deviation; None: no division.
        of_population: The deviation over N rollouts, not N − 1.
        floor: The least to divide by.
    """
    size = rewards.shape[-1]
    centred = rewards - rewards.mean(-1, keepdim=True)
    # The mean of equal numbers, rounded, is not quite one of them.
    is_flat = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    centred = centred.masked_fill(is_flat, 0.0)
    advantages = centred * size / (size - 1) if leave_one_out else centred
    if scale_epsilon is None:
        return advantages
    correction = 0 if of_population else min(1, size - 1)
    deviation = rewards.std(-1, keepdim=True, correction=correction)
    divisor = (deviation + scale_epsilon).clamp(min=floor)
    return advantages / torch.where(divisor > 0, divisor, torch.ones_like(divisor))
