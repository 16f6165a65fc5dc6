"""How far a policy has gone from its reference, and how much its ELBO hides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.enumeration import expected_log_prob, marginal_log_prob, revealed_sets
from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rollouts, Views

__all__ = [
    "MAX_ENUMERATED",
    "enumerated_log_probs",
    "first_rollouts",
    "is_drift_due",
    "measure_drift",
]

MAX_ENUMERATED = 8
"""Longest canvas whose 2^D sets of tokens are enumerated."""


def measure_drift(
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    generator: torch.Generator,
    *,
    rows_per_forward: int,
    num_views: int = 8,
) -> Mapping[str, float]:
    """Return the drift figures of :data:`dmpo.training.metrics.METRICS`; no gradient is taken.

    ``drift/kl_reference`` is the mean of log p_θ − log p_ref, each an ELBO on the same views:
    an estimate of KL(p_θ ‖ p_ref) for rollouts of p_θ at temperature 1, but for the difference
    of the two gaps. ``drift/elbo_gap`` is that of p_θ, of the whole canvas, exactly.

    Args:
        policy: With a frozen reference.
        rollouts: Drawn from the policy.
        generator: Where the views come from.
        rows_per_forward: Rollouts per forward pass, each with its views, at most.
        num_views: R, subsets of each rollout, in antithetic pairs.

    Returns:
        ``drift/kl_reference``, ``drift/kl_reference_error`` with two rollouts or more, and
        ``drift/elbo_gap`` where the canvas has at most ``MAX_ENUMERATED`` tokens; in nats.

    Raises:
        ConfigError: If the policy has no reference.
    """
    likelihood = ElboLikelihood(ElboConfig(num_views=num_views))
    views = likelihood.views(rollouts, generator)
    here = rollout_log_probs(policy, rollouts, views, rows_per_forward=rows_per_forward)
    with policy.reference():
        there = rollout_log_probs(policy, rollouts, views, rows_per_forward=rows_per_forward)
    ratio = likelihood.log_ratio(here, there, views).flatten().double()
    figures = {"drift/kl_reference": ratio.mean().item()}
    if len(ratio) > 1:
        figures["drift/kl_reference_error"] = (ratio.std() / len(ratio) ** 0.5).item()
    length = rollouts.completions.shape[-1]
    if length <= MAX_ENUMERATED:
        rows = max(1, rows_per_forward * num_views // 2**length)
        table = enumerated_log_probs(policy, rollouts, rows_per_forward=rows)
        gap = marginal_log_prob(table) - expected_log_prob(table)
        figures["drift/elbo_gap"] = gap.mean().item()
    return figures


def enumerated_log_probs(
    policy: DiffusionPolicy, rollouts: Rollouts, *, rows_per_forward: int
) -> Float[Tensor, "B N U D"]:
    """Return log π(o_d | o_S, q) for every set S of a rollout's tokens, zero for d inside S."""
    hidden = ~revealed_sets(rollouts.completions.shape[-1])
    hidden = hidden.expand(rollouts.num_prompts, rollouts.num_rollouts, -1, -1)
    views = Views(hidden=hidden, coefficient=hidden.float())
    return rollout_log_probs(policy, rollouts, views, rows_per_forward=rows_per_forward)


def first_rollouts(rollouts: Rollouts, count: int) -> Rollouts:
    """Return ``count`` rollouts at most: as many prompts as possible, the first of each group."""
    chosen = rollouts.groups(range(min(count, rollouts.num_prompts)))
    each = min(max(1, count // chosen.num_prompts), rollouts.num_rollouts)
    log_probs, entropies = chosen.log_probs, chosen.entropies
    return replace(
        chosen,
        completions=chosen.completions[:, :each],
        answer_mask=chosen.answer_mask[:, :each],
        commit_step=chosen.commit_step[:, :each],
        log_probs=None if log_probs is None else log_probs[:, :each],
        entropies=None if entropies is None else entropies[:, :each],
        texts=tuple(texts[:each] for texts in chosen.texts),
    )


def is_drift_due(step: int, every: int | None, updates_per_buffer: int) -> bool:
    """Return whether the buffer filled at ``step`` is the next one after a multiple of ``every``.

    Args:
        step: Gradient steps taken.
        every: Steps between measurements; None: there are none.
        updates_per_buffer: F.
    """
    return every is not None and step // every > (step - updates_per_buffer) // every
