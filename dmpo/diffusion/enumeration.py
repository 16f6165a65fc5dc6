"""What short completions allow: log p(o | q) and its ELBO exactly, over all orders at once.

A token order σ is uniformly random, and p(o | q) = E_σ Π_i π(o_σi | o_σ<i, q) (DMPO Eq. 1,
arXiv 2510.08233). The D! orders share their beginnings, so 2^D sets of revealed tokens are
enough: with P(S) the mean, over orders of S, of the probability of its tokens,
P(S) = 1/|S| Σ_{d∈S} P(S∖d) · π(o_d | o_{S∖d}).

One more axis than in :mod:`dmpo.records`: U = 2^D, sets of revealed tokens; token d is in set u
if bit d of u is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["expected_log_prob", "marginal_log_prob", "revealed_sets"]


def revealed_sets(num_tokens: int) -> Bool[Tensor, "U D"]:
    """Return every set of revealed tokens, the empty one first and the full one last.

    Example:
        >>> revealed_sets(2).long().tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    bits = torch.arange(2**num_tokens)[:, None] >> torch.arange(num_tokens)
    return bits % 2 == 1


def marginal_log_prob(token_log_probs: Float[Tensor, "*rows U D"]) -> Float[Tensor, "*rows"]:
    """Return log p(o | q) = log E_σ Π_i π(o_σi | o_σ<i, q), in nats (DMPO Eq. 1).

    Args:
        token_log_probs: log π(o_d | o_S, q) at [S, d] for d outside S; the rest is not read.

    Returns:
        At least :func:`expected_log_prob`; float64.
    """

    def mean(ways: Tensor) -> Tensor:
        return ways.logsumexp(dim=-1) - math.log(ways.shape[-1])

    return _over_sets(token_log_probs, mean)


def expected_log_prob(token_log_probs: Float[Tensor, "*rows U D"]) -> Float[Tensor, "*rows"]:
    """Return E_σ Σ_i log π(o_σi | o_σ<i, q), the ELBO that random subsets estimate, in nats.

    Args:
        token_log_probs: As for :func:`marginal_log_prob`.

    Returns:
        DMPO Eq. 2 without its sign; float64.
    """
    return _over_sets(token_log_probs, lambda ways: ways.mean(dim=-1))


def _over_sets(
    token_log_probs: Float[Tensor, "*rows U D"], mean: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*rows"]:
    """Return the value of the full set, each set's being the mean over which token came last."""
    num_sets, num_tokens = token_log_probs.shape[-2:]
    table = token_log_probs.double()
    values = [table.new_zeros(table.shape[:-2])]
    for revealed in range(1, num_sets):
        last = [d for d in range(num_tokens) if revealed >> d & 1]
        before = [revealed ^ (1 << d) for d in last]
        ways = [values[u] + table[..., u, d] for u, d in zip(before, last, strict=True)]
        values.append(mean(torch.stack(ways, dim=-1)))
    return values[-1]
