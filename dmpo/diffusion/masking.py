"""Which completion tokens are hidden: random subsets of the tokens that count.

Three ways to draw them, never mixed: by *count* (m uniform on 0..D, then a uniformly random set of
that size), by *rate* (t uniform, then every token by itself with probability t) and by *quadrature*
(a set of a given size). The first two make m uniform on 0..D; the second with a squeezed t is what
the official code does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.diffusion.draws import uniform
from dmpo.errors import ConfigError

__all__ = [
    "bernoulli_masks",
    "context_masks",
    "count_masks",
    "mask_counts",
    "quadrature_counts",
    "random_subsets",
    "rate_masks",
    "uniform_levels",
    "with_complements",
]

SQUEEZED_RATE = 0.1
"""Smallest mask rate of the official draws: t = 0.1 + 0.9·u."""


def uniform_levels(
    shape: Sequence[int], num_draws: int, generator: torch.Generator, *, stratified: bool
) -> Float[Tensor, "*rows R"]:
    """Return R levels in [0, 1) for each row, each uniform by itself.

    Args:
        shape: Leading axes, one row each.
        num_draws: R, at least 1.
        generator: The source of randomness; the levels lie on its device.
        stratified: Systematic levels (r + u)/R with one u per row, in place of R free ones.

    Returns:
        Levels, float64.
    """
    if not stratified:
        return uniform((*shape, num_draws), generator)
    offset = uniform((*shape, 1), generator)
    place = torch.arange(num_draws, dtype=torch.float64, device=offset.device)
    return (place + offset) / num_draws


def mask_counts(
    lengths: Int[Tensor, "*rows"],
    num_draws: int,
    generator: torch.Generator,
    *,
    stratified: bool,
    smaller_half: bool = False,
) -> Int[Tensor, "*rows R"]:
    """Return how many tokens each draw hides: m uniform on 0..D.

    Args:
        lengths: D, the number of tokens that count, of each row.
        num_draws: R, at least 1.
        generator: The source of randomness.
        stratified: Spread the R counts of a row evenly over 0..D.
        smaller_half: Draw the smaller of m and D − m only; uniform once m and D − m are both used.

    Returns:
        Counts, on the device of ``lengths``.
    """
    levels = uniform_levels(lengths.shape, num_draws, generator, stratified=stratified)
    levels = levels.to(lengths.device) * (0.5 if smaller_half else 1.0)
    counts = (levels * (lengths.unsqueeze(-1) + 1)).floor().long()
    # A systematic level may round up to 1.
    return torch.minimum(counts, lengths.unsqueeze(-1))


def random_subsets(
    scored: Bool[Tensor, "*rows D"], counts: Int[Tensor, "*rows R"], generator: torch.Generator
) -> Bool[Tensor, "*rows R D"]:
    """Return, for each count m, a uniformly random set of m scored tokens."""
    shape = (*counts.shape, scored.shape[-1])
    noise = uniform(shape, generator, torch.float32).to(scored.device)
    noise = noise.masked_fill(~scored.unsqueeze(-2), 2.0)
    ranks = noise.argsort(dim=-1).argsort(dim=-1)
    return ranks < counts.unsqueeze(-1)


def bernoulli_masks(
    scored: Bool[Tensor, "*rows D"], rates: Float[Tensor, "*rows R"], generator: torch.Generator
) -> Bool[Tensor, "*rows R D"]:
    """Return, for each rate t, a set that holds each scored token by itself with probability t."""
    shape = (*rates.shape, scored.shape[-1])
    noise = uniform(shape, generator, rates.dtype)
    hidden = noise < rates.unsqueeze(-1).to(noise.device)
    return hidden.to(scored.device) & scored.unsqueeze(-2)


def context_masks(
    real: Bool[Tensor, "*rows C"], num_draws: int, rate: float, generator: torch.Generator
) -> Bool[Tensor, "*rows R C"]:
    """Return R sets of context tokens (a prompt's), each token hidden with probability ``rate``.

    Args:
        real: Tokens that may be hidden: padding may not.
        num_draws: R, at least 1.
        rate: Probability in [0, 1).
        generator: The source of randomness.
    """
    shape = (*real.shape[:-1], num_draws, real.shape[-1])
    noise = uniform(shape, generator, torch.float32)
    return (noise < rate).to(real.device) & real.unsqueeze(-2)


def quadrature_counts(
    lengths: Int[Tensor, "*rows"], nodes: Float[Tensor, " R"]
) -> Int[Tensor, "*rows R"]:
    """Return how many tokens a quadrature over the mask rate hides: t·D, rounded, in 1..D.

    Args:
        lengths: D, the number of tokens that count, of each row.
        nodes: Rates t in [0, 1].
    """
    longest = lengths.unsqueeze(-1)
    counts = (nodes.to(lengths.device) * longest).round().long().clamp(min=1)
    return torch.minimum(counts, longest)


def with_complements(
    hidden: Bool[Tensor, "*rows half D"], scored: Bool[Tensor, "*rows D"]
) -> Bool[Tensor, "*rows R D"]:
    """Return the draws followed by their complements: draw r is paired with r + R/2."""
    return torch.cat([hidden, scored.unsqueeze(-2) & ~hidden], dim=-2)


def count_masks(
    scored: Bool[Tensor, "*rows D"],
    num_draws: int,
    generator: torch.Generator,
    *,
    antithetic: bool,
    stratified: bool,
) -> Bool[Tensor, "*rows R D"]:
    """Return R random sets of scored tokens with m uniform on 0..D (METHOD, "Likelihood").

    Args:
        scored: Tokens that count; no other is ever hidden.
        num_draws: R; even if ``antithetic``.
        generator: The source of randomness.
        antithetic: Make the second half of the draws the complements of the first.
        stratified: Spread the sizes of a row's draws evenly over 0..D.

    Returns:
        True where a token is hidden.

    Raises:
        ConfigError: If pairs are asked of an odd number of draws.
    """
    free = _free_draws(num_draws, antithetic=antithetic)
    # A pair covers m and D − m, so strata over the smaller half of the sizes cover all of them.
    counts = mask_counts(
        scored.sum(-1),
        free,
        generator,
        stratified=stratified,
        smaller_half=antithetic and stratified,
    )
    hidden = random_subsets(scored, counts, generator)
    return with_complements(hidden, scored) if antithetic else hidden


def rate_masks(
    scored: Bool[Tensor, "*rows D"],
    num_draws: int,
    generator: torch.Generator,
    *,
    antithetic: bool,
    stratified: bool,
    squeeze: bool,
) -> Bool[Tensor, "*rows R D"]:
    """Return R random sets, each token hidden by itself with probability t, t uniform.

    Args:
        scored: Tokens that count; no other is ever hidden.
        num_draws: R; even if ``antithetic``.
        generator: The source of randomness.
        antithetic: Make the second half of the draws the complements of the first.
        stratified: Spread the rates of a row's draws evenly.
        squeeze: Draw t from [0.1, 1] in place of [0, 1], as the official code does.

    Returns:
        True where a token is hidden.

    Raises:
        ConfigError: If pairs are asked of an odd number of draws, or the squeeze without them.
    """
    if squeeze and not antithetic:
        raise ConfigError(
            "squeeze: mask rates in [0.1, 1] alone bias the likelihood by about +10%; "
            "only antithetic pairs cancel that."
        )
    free = _free_draws(num_draws, antithetic=antithetic)
    rates = uniform_levels(scored.shape[:-1], free, generator, stratified=stratified)
    if squeeze:
        rates = SQUEEZED_RATE + (1 - SQUEEZED_RATE) * rates
    elif antithetic and stratified:
        # A pair covers t and 1 − t, so strata over the smaller half of the rates cover all of them.
        rates = rates / 2
    hidden = bernoulli_masks(scored, rates, generator)
    return with_complements(hidden, scored) if antithetic else hidden


def _free_draws(num_draws: int, *, antithetic: bool) -> int:
    if not antithetic:
        return num_draws
    if num_draws % 2:
        raise ConfigError(
            f"num_views: {num_draws} draws cannot be paired with complements; "
            "give an even number or turn antithetic off."
        )
    return num_draws // 2
