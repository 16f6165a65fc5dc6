"""The negative ELBO from random subsets: factors of the token log-probabilities, and its noise.

DMPO Eq. 2: −log p(o | q) ≤ E_{m ~ U{1..D}} D/m · E_{|S| = m} Σ_{d∈S} −log π(o_d | õ_S, q).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "exact_coefficients",
    "reference_coefficients",
    "replicate_estimates",
    "replicate_standard_error",
]


def exact_coefficients(
    hidden: Bool[Tensor, "*rows R D"], lengths: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows R D"]:
    """Return (D+1)/m over R on the hidden tokens: unbiased where m is uniform on 0..D.

    An empty set counts as 0, and (D+1)/m in place of D/m makes up for it.

    Args:
        hidden: R sets of hidden tokens.
        lengths: D, the number of tokens that count.

    Returns:
        Factors, float32; Σ factor · log π is the mean over the R draws.
    """
    sizes = hidden.sum(-1, keepdim=True)
    return _over_sizes(hidden, (lengths + 1)[..., None, None], sizes)


def reference_coefficients(
    hidden: Bool[Tensor, "*rows R D"], lengths: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows R D"]:
    """Return D/max(m, 1) over R on the hidden tokens, as the official code does.

    Where m is uniform on 0..D its expectation is D/(D+1) of the truth; see ``exact``.

    Args:
        hidden: R sets of hidden tokens.
        lengths: D, the number of tokens that count.

    Returns:
        Factors, float32; Σ factor · log π is the mean over the R draws.
    """
    sizes = hidden.sum(-1, keepdim=True)
    return _over_sizes(hidden, lengths[..., None, None], sizes)


def _over_sizes(
    hidden: Bool[Tensor, "*rows R D"],
    numerator: Int[Tensor, "*rows 1 1"],
    sizes: Int[Tensor, "*rows R 1"],
) -> Float[Tensor, "*rows R D"]:
    factor = numerator.float() / (sizes.clamp(min=1).float() * hidden.shape[-2])
    return hidden * factor


def replicate_estimates(
    token_log_probs: Float[Tensor, "*rows R D"], coefficient: Float[Tensor, "*rows R D"]
) -> Float[Tensor, "*rows R"]:
    """Return what each of the R draws alone says; their mean is the estimate."""
    return (coefficient * token_log_probs).sum(-1) * coefficient.shape[-2]


def replicate_standard_error(
    estimates: Float[Tensor, "*rows R"], *, antithetic: bool
) -> Float[Tensor, "*rows"] | None:
    """Return the standard error of the mean of R draws.

    An antithetic pair is one replicate. Stratified replicates repel each other, so for them
    this errs on the large side.

    Args:
        estimates: What each draw says, in nats; draw r is paired with r + R/2.
        antithetic: Whether the draws are pairs.

    Returns:
        Standard errors in nats; None where a single replicate cannot tell.
    """
    if antithetic:
        estimates = torch.stack(estimates.chunk(2, dim=-1)).mean(0)
    num_replicates = estimates.shape[-1]
    if num_replicates < 2:
        return None
    return estimates.std(dim=-1, correction=1) / math.sqrt(num_replicates)
