"""Bounds of log p from random subsets: factors of the token log-probabilities, and their noise.

DMPO Eq. 2: −log p(o | q) ≤ E_{m ~ U{1..D}} D/m · E_{|S| = m} Σ_{d∈S} −log π(o_d | õ_S, q).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "block_coefficients",
    "exact_coefficients",
    "gauss_legendre",
    "power_mean_bound",
    "quadrature_coefficients",
    "reference_coefficients",
    "replicate_estimates",
    "replicate_standard_error",
    "sample_standard_error",
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


def gauss_legendre(num_nodes: int) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1], float64.

    By Golub and Welsch (1969): eigenvalues of the Jacobi matrix, and squared first components of
    its eigenvectors.
    """
    order = torch.arange(1, num_nodes, dtype=torch.float64)
    beside = order / (4 * order.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(beside.diag(1) + beside.diag(-1))
    return (values + 1) / 2, vectors[0].square()


def quadrature_coefficients(
    hidden: Bool[Tensor, "*rows R D"],
    lengths: Int[Tensor, "*rows"],
    weights: Float[Tensor, " R"],
) -> Float[Tensor, "*rows R D"]:
    """Return w_n·D/m on the hidden tokens of draw n: a quadrature over the mask rate (GDPO).

    Biased: a mean over m of 1..D is taken for an integral over m/D, and each node is rounded to
    whole tokens. GDPO (2510.08554) divides by the node itself, and its weights then do not add up
    to D: at D = 1 and three nodes they add up to 3.7.

    Args:
        hidden: R sets of hidden tokens, none of them empty.
        lengths: D, the number of tokens that count.
        weights: w, which add up to 1.

    Returns:
        Factors, float32.
    """
    sizes = hidden.sum(-1, keepdim=True).clamp(min=1)
    share = weights.to(hidden.device).float().unsqueeze(-1)
    return hidden * (share * lengths[..., None, None] / sizes)


def block_coefficients(
    hidden: Bool[Tensor, "*rows R D"],
    block: Bool[Tensor, "*rows R D"],
    num_blocks: Int[Tensor, "*rows"],
) -> Float[Tensor, "*rows R D"]:
    """Return (number of blocks)·(n+1)/m over R on the hidden tokens of each draw's block.

    Unbiased for Σ_b ELBO_b, the bound of filling block after block, where each draw takes every
    block with the same probability and m is uniform on 0..n.

    Args:
        hidden: Tokens of the block that are hidden, m of them.
        block: The n tokens of the block that each draw looks at.
        num_blocks: Blocks of each row.

    Returns:
        Factors, float32.
    """
    sizes = hidden.sum(-1, keepdim=True)
    numerator = num_blocks[..., None, None] * (block.sum(-1, keepdim=True) + 1)
    return _over_sizes(hidden, numerator, sizes)


def power_mean_bound(
    token_log_probs: Float[Tensor, "*rows R D"],
    coefficient: Float[Tensor, "*rows R D"],
    power: float,
) -> Float[Tensor, "*rows"]:
    """Return Σ_d (1/β)·log Σ_r coefficient[r, d]·π[r, d]^β: SPG's upper bound (2510.09541, EUBO).

    With all sets of hidden tokens, weighed so that the coefficients of a position add up to 1,
    it is at least the ELBO for every β > 0 (a power mean against a geometric one). Of a few
    draws it is a biased estimate, because the logarithm is taken of a sample mean. Positions
    that no draw hides add nothing; SPG drops positions whose mean is 0, which is the same.

    Args:
        token_log_probs: log π in nats; only where the coefficient is positive is it looked at.
        coefficient: Not negative; zero where a token does not count.
        power: β, greater than 0; SPG's bound asks for at least 1.

    Returns:
        In nats. Differentiable with finite gradients, also where a position is never hidden.
    """
    counts = coefficient > 0
    logarithm = coefficient.where(counts, 1.0).log()
    terms = (power * token_log_probs + logarithm).where(counts, -math.inf)
    is_hidden = counts.any(dim=-2, keepdim=True)
    # logsumexp of nothing has no gradient, so such positions get something finite first.
    positions = terms.where(is_hidden, 0.0).logsumexp(dim=-2)
    return (positions * is_hidden.squeeze(-2)).sum(dim=-1) / power


def _over_sizes(
    hidden: Bool[Tensor, "*rows R D"],
    numerator: Int[Tensor, "*rows #R 1"],
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


def sample_standard_error(
    contributions: Float[Tensor, "*rows R"],
    is_drawn: Bool[Tensor, "*rows R"],
    share: Float[Tensor, "*rows"],
) -> Float[Tensor, "*rows"]:
    """Return the standard error of a sum estimated from n of D terms, drawn without replacement.

    √(n/(n−1)·Σ(x − x̄)²·(1 − n/D)), as for a simple random sample. Zero where all are drawn.

    Args:
        contributions: x, each drawn term times D/n, in nats.
        is_drawn: Which of the R places hold one of the n terms; two at least, unless D = 1.
        share: n/D.
    """
    counts = is_drawn.sum(-1)
    centre = (contributions * is_drawn).sum(-1) / counts
    spread = ((contributions - centre.unsqueeze(-1)).square() * is_drawn).sum(-1)
    return (spread * counts / (counts - 1).clamp(min=1) * (1 - share)).clamp(min=0).sqrt()
