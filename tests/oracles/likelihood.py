"""Likelihoods by enumeration, and the estimators' exact mean and variance."""

from __future__ import annotations

import itertools
import math
from typing import final

import numpy
import torch
from torch import Tensor

from dmpo.likelihoods.base import Likelihood, LikelihoodConfig, rollout_log_probs
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rollouts, Views
from tests.oracles.records import rollouts_of


def subset_probability(size: int, length: int) -> float:
    """Return the probability of one set of ``size`` where m is uniform on 0..D."""
    return 1 / (length + 1) / math.comb(length, size)


def enumerated_elbo(subset_scores: Tensor, subsets: Tensor) -> Tensor:
    """Return the ELBO (minus DMPO Eq. 2) from log π(o_d | õ_S) of all subsets [2^D, rows, D]."""
    length = subsets.shape[1]
    total = torch.zeros(subset_scores.shape[1], dtype=torch.float64)
    for hidden, scores in zip(subsets, subset_scores, strict=True):
        size = int(hidden.sum())
        if size:
            total = total + scores.sum(-1) * (length / size) / length / math.comb(length, size)
    return total


def single_draws(subset_scores: Tensor, subsets: Tensor, estimator: str) -> Tensor:
    """Return what one subset alone says, for each subset and row: [2^D, rows]."""
    length = subsets.shape[1]
    factors = []
    for size in subsets.sum(-1).tolist():
        numerator = length + 1 if estimator == "exact" else length
        factors.append(numerator / max(size, 1))
    return subset_scores.sum(-1) * torch.tensor(factors, dtype=torch.float64).unsqueeze(-1)


def estimator_moments(
    draws: Tensor, subsets: Tensor, num_draws: int, *, antithetic: bool, stratified: bool
) -> tuple[Tensor, Tensor]:
    """Return exact mean and variance of the mean of ``num_draws`` draws [2^D, rows].

    The level u of systematic draws moves the sizes only at a few edges; between
    them the sizes are fixed, and the sets of different draws are independent.
    """
    span = 1.0
    if antithetic:
        draws = (draws + draws.flip(0)) / 2
        num_draws //= 2
        span = 0.5 if stratified else 1.0
    length = subsets.shape[1]
    by_size, squares = [], []
    for size in range(length + 1):
        group = draws[subsets.sum(-1) == size]
        by_size.append(group.mean(0))
        squares.append(group.square().mean(0))
    mean_of, square_of = torch.stack(by_size), torch.stack(squares)
    variance_of = square_of - mean_of.square()
    mean = mean_of.mean(0)
    if not stratified:
        return mean, (square_of.mean(0) - mean.square()) / num_draws
    edges = {0.0, 1.0}
    for m, r in itertools.product(range(length + 2), range(num_draws)):
        edge = m * num_draws / (length + 1) / span - r
        if 0 < edge < 1:
            edges.add(edge)
    ordered = sorted(edges)
    first = torch.zeros_like(mean)
    second = torch.zeros_like(mean)
    for low, high in itertools.pairwise(ordered):
        middle = (low + high) / 2
        sizes = [int(span * (r + middle) / num_draws * (length + 1)) for r in range(num_draws)]
        centre = mean_of[sizes].mean(0)
        spread = variance_of[sizes].sum(0) / num_draws**2
        first = first + (high - low) * centre
        second = second + (high - low) * (centre.square() + spread)
    return first, second - first.square()


def rate_moments(
    draws: Tensor, subsets: Tensor, num_draws: int, *, antithetic: bool, stratified: bool
) -> tuple[Tensor, Tensor]:
    """Return exact mean and variance of the mean of draws whose tokens are hidden one by one.

    Given the offset u of systematic rates, draws are independent, and every moment is a
    polynomial in u.
    """
    span = 1.0
    if antithetic:
        draws = (draws + draws.flip(0)) / 2
        num_draws //= 2
        span = 0.5 if stratified else 1.0
    first, second = torch.zeros_like(draws[0]), torch.zeros_like(draws[0])
    for u, weight in _gauss(2 * subsets.shape[1] + 2):
        if not stratified:
            mean, square = _given_rate(draws, subsets, u)
            first, second = first + weight * mean, second + weight * square
            continue
        moments = [
            _given_rate(draws, subsets, span * (r + u) / num_draws) for r in range(num_draws)
        ]
        centre = torch.stack([mean for mean, _ in moments]).mean(0)
        spread = sum(square - mean.square() for mean, square in moments) / num_draws**2
        first = first + weight * centre
        second = second + weight * (centre.square() + spread)
    variance = second - first.square()
    return first, variance if stratified else variance / num_draws


def _given_rate(draws: Tensor, subsets: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    length = subsets.shape[1]
    sizes = subsets.sum(-1, keepdim=True)
    chances = rate**sizes * (1 - rate) ** (length - sizes)
    return (chances * draws).sum(0), (chances * draws.square()).sum(0)


def _gauss(num_nodes: int) -> list[tuple[float, float]]:
    nodes, weights = numpy.polynomial.legendre.leggauss(num_nodes)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def coupled_mean(
    subset_scores: Tensor, subsets: Tensor, weighting: str, low: float = 0.2, high: float = 0.8
) -> Tensor:
    """Return the expectation of a set and its complement, without the view that hides all."""
    total = torch.zeros(subset_scores.shape[1], dtype=torch.float64)
    for u, weight in _gauss(8):
        rate = low + (high - low) * u
        scores = subset_scores.sum(-1)
        if weighting == "rate":
            scores = scores / rate + scores.flip(0) / (1 - rate)
        else:
            scores = scores + scores.flip(0)
        mean, _ = _given_rate(scores, subsets, rate)
        total = total + weight * mean
    return total


def block_bound(subset_scores: Tensor, subsets: Tensor, block_length: int) -> Tensor:
    """Return Σ over blocks of the ELBO of a block given the earlier ones."""
    length = subsets.shape[1]
    index = {tuple(each): row for row, each in enumerate(subsets.tolist())}
    total = torch.zeros(subset_scores.shape[1], dtype=torch.float64)
    for start in range(0, length, block_length):
        places = list(range(start, min(start + block_length, length)))
        later = range(places[-1] + 1, length)
        for size in range(1, len(places) + 1):
            for drawn in itertools.combinations(places, size):
                row = index[tuple(d in drawn or d in later for d in range(length))]
                scores = subset_scores[row][:, list(drawn)].sum(-1)
                total = total + scores / size / math.comb(len(places), size)
    return total


def repeated_estimates(
    policy: DiffusionPolicy,
    likelihood: Likelihood,
    responses: Tensor,
    repeats: int,
    seed: int = 0,
    **recorded: Tensor,
) -> Tensor:
    """Return independent estimates of each response [responses, repeats].

    ``recorded`` names further fields of the rollouts, [responses, D] each.
    """
    fields = {
        name: value.repeat_interleave(repeats, 0).unsqueeze(0) for name, value in recorded.items()
    }
    rollouts = rollouts_of(
        torch.zeros(1, 1, dtype=torch.long),
        responses.repeat_interleave(repeats, 0).unsqueeze(0),
        **fields,
    )
    views = likelihood.views(rollouts, torch.Generator().manual_seed(seed))
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=rollouts.num_rows)
    return likelihood.combine(scores, views).reshape(len(responses), repeats)


def agree(estimates: Tensor, truth: Tensor, deviations: float = 4) -> bool:
    """Say whether the means [rows, repeats] are within some standard errors of the truth."""
    error = estimates.std(-1) / estimates.shape[-1] ** 0.5
    return bool(((estimates.mean(-1) - truth).abs() <= deviations * error + 1e-5).all())


@final
class ExhaustiveLikelihood(Likelihood):
    """The ELBO itself: every non-empty set of hidden tokens, with its exact factor."""

    Config = LikelihoodConfig
    is_exact = True
    is_deterministic = True

    def __init__(self, config: LikelihoodConfig) -> None:
        self.config = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        length = rollouts.completions.shape[-1]
        sets = list(itertools.product([False, True], repeat=length))[1:]
        hidden = torch.tensor(sets)
        sizes = [sum(each) for each in sets]
        factors = [1 / size / math.comb(length, size) for size in sizes]
        coefficient = hidden * torch.tensor(factors, dtype=torch.float64).unsqueeze(-1)
        shape = (rollouts.num_prompts, rollouts.num_rollouts, len(sets), length)
        return Views(hidden=hidden.expand(shape), coefficient=coefficient.expand(shape))

    def standard_error(self, token_log_ratios, views):
        return torch.zeros_like(token_log_ratios[..., 0, 0])


@final
class GivenViews(Likelihood):
    """Views laid down beforehand, for every draw the same: what a fixture prescribes."""

    Config = LikelihoodConfig
    is_exact = False
    is_deterministic = True

    def __init__(self, views: Views, config: LikelihoodConfig) -> None:
        self._views = views
        self.config = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        return self._views

    def standard_error(self, token_log_ratios, views):
        return None


@final
class IndependentMasks(Likelihood):
    """A random likelihood that looks at the behaviour policy through masks of its own.

    What the library does not do: reference and behaviour policy then differ by the noise of
    both. It reads the policy at the moment a buffer is prepared.
    """

    Config = LikelihoodConfig
    is_exact = False
    needs_path = False
    is_deterministic = False

    def __init__(self, policy: DiffusionPolicy, likelihood: Likelihood) -> None:
        self._policy = policy
        self._likelihood = likelihood
        self.config = likelihood.config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        self._own_views = self._likelihood.views(rollouts, generator)
        return self._likelihood.views(rollouts, generator)

    def recorded_log_probs(self, rollouts: Rollouts, views: Views) -> Tensor:
        scores = rollout_log_probs(
            self._policy, rollouts, self._own_views, rows_per_forward=rollouts.num_rows
        )
        estimate = self._likelihood.combine(scores, self._own_views)
        # Any token scores whose combination on the given views is the estimate.
        norm = views.coefficient.square().sum((-2, -1))
        return views.coefficient * (estimate / norm)[..., None, None]

    def standard_error(self, token_log_ratios, views):
        return None
