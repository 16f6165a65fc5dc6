"""The steps of a rollout's own path: numbered per row, averaged over, and drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from dmpo.diffusion.draws import uniform
from dmpo.diffusion.masking import uniform_levels

__all__ = ["PathSteps", "distinct_draws", "path_steps", "step_means", "systematic_draws"]

ABSENT = torch.iinfo(torch.long).max
"""Sorts behind every step."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathSteps:
    """The steps that committed a token that counts, of each row, numbered in order."""

    rank: Int[Tensor, "*rows D"]
    """Which of the row's steps committed each token; −1 on tokens that do not count."""
    number: Int[Tensor, "*rows T"]
    """The sampler's number of each step; 0 beyond ``count``."""
    count: Int[Tensor, "*rows"]
    """Steps of the row; T is the largest of them."""

    @property
    def exists(self) -> Bool[Tensor, "*rows T"]:
        """Whether the row has as many steps."""
        place = torch.arange(self.number.shape[-1], device=self.number.device)
        return place < self.count.unsqueeze(-1)


def path_steps(commit_step: Int[Tensor, "*rows D"], scored: Bool[Tensor, "*rows D"]) -> PathSteps:
    """Return the steps of each row. Their numbers need not be consecutive, nor as many in each.

    Args:
        commit_step: Step at which each token was fixed, from 0.
        scored: Tokens that count.
    """
    ordered, order = commit_step.masked_fill(~scored, ABSENT).sort(dim=-1)
    is_new = torch.ones_like(scored)
    is_new[..., 1:] = ordered.diff(dim=-1) != 0
    rank = is_new.cumsum(-1) - 1
    count = (is_new & (ordered != ABSENT)).sum(-1)
    number = torch.zeros_like(ordered).scatter(-1, rank, ordered)
    number = number[..., : max(1, int(count.max()))]
    return PathSteps(
        rank=torch.empty_like(rank).scatter(-1, order, rank).masked_fill(~scored, -1),
        number=number.masked_fill(number == ABSENT, 0),
        count=count,
    )


def step_means(values: Float[Tensor, "*rows D"], steps: PathSteps) -> Float[Tensor, "*rows T"]:
    """Return the mean of each step over the tokens it committed that count; 0 beyond the last."""
    counts = steps.rank >= 0
    place = steps.rank.clamp(min=0)
    total = torch.zeros(steps.number.shape, dtype=torch.float64, device=values.device)
    size = total.scatter_add(-1, place, counts.double())
    total = total.scatter_add(-1, place, values.double().masked_fill(~counts, 0.0))
    return total / size.clamp(min=1)


def systematic_draws(
    probabilities: Float[Tensor, "*rows T"],
    counts: Int[Tensor, "*rows"],
    num_draws: int,
    generator: torch.Generator,
) -> Int[Tensor, "*rows R"]:
    """Return n indices of each row, in order, index s on average n·P(s) times.

    One uniform level u per row, and the points (k + u)/n on the cumulative probabilities; each
    index comes up ⌊n·P⌋ or ⌈n·P⌉ times.

    Args:
        probabilities: P; each row adds up to a positive number.
        counts: n, at most ``num_draws``.
        num_draws: R, at least 1.
        generator: The source of randomness.

    Returns:
        Indices; −1 in the places beyond n.
    """
    levels = uniform_levels(counts.shape, 1, generator, stratified=False).to(counts.device)
    place = torch.arange(num_draws, device=counts.device)
    points = (place + levels) / counts.clamp(min=1).unsqueeze(-1)
    below_one = 1 - torch.finfo(torch.float64).eps
    cumulative = probabilities.double().cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]
    index = torch.searchsorted(cumulative, points.clamp(max=below_one), right=True)
    return index.masked_fill(place >= counts.unsqueeze(-1), -1)


def distinct_draws(
    log_probabilities: Float[Tensor, "*rows T"], num_draws: int, generator: torch.Generator
) -> Int[Tensor, "*rows R"]:
    """Return R different indices of each row, drawn one after the other in proportion to P.

    By the R largest of log P and Gumbel noise. Indices of probability 0 come last, as −1, and so
    do those beyond T.

    Args:
        log_probabilities: log P, up to a constant; −∞ where nothing is to be drawn.
        num_draws: R.
        generator: The source of randomness.
    """
    # Numbers are counted from the end, indices from the beginning: T is that of the longest row.
    noise = -torch.log1p(-uniform(log_probabilities.shape, generator).flip(-1))
    keys = log_probabilities.double() - noise.log().to(log_probabilities.device)
    best = keys.topk(min(num_draws, keys.shape[-1]), dim=-1)
    drawn = best.indices.masked_fill(best.values == -torch.inf, -1)
    # As many in every buffer, so that the parts of one, whose T differ, fit together.
    return pad(drawn, (0, num_draws - drawn.shape[-1]), value=-1)
