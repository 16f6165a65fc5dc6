"""Objectives put together from few words."""

from __future__ import annotations

from typing import Any

import torch

from dmpo.likelihoods.base import Likelihood
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.diffu_grpo import DiffuGrpoConfig, DiffuGrpoObjective
from dmpo.objectives.dmpo import DmpoConfig, DmpoObjective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch
from dmpo.registry import BASELINES, WEIGHTS


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(
    likelihood: Likelihood,
    *,
    weights: tuple[str, dict[str, Any]] = ("tilted", {"alpha": 0.5}),
    baseline: tuple[str, dict[str, Any]] = ("mean", {}),
    ratio_likelihood: Likelihood | None = None,
    updates: int = 4,
    rows_per_forward: int = 64,
) -> ObjectiveParts:
    return ObjectiveParts(
        likelihood=likelihood,
        ratio_likelihood=ratio_likelihood or likelihood,
        weights=WEIGHTS.build(*weights),
        baseline=BASELINES.build(*baseline),
        updates_per_buffer=updates,
        rows_per_forward=rows_per_forward,
    )


def dmpo(likelihood: Likelihood, *, share_views: bool = False, **choices: Any) -> DmpoObjective:
    return DmpoObjective(DmpoConfig(share_views=share_views), parts(likelihood, **choices))


def diffu_grpo(likelihood: Likelihood, *, updates: int = 4, **settings: Any) -> DiffuGrpoObjective:
    chosen = parts(likelihood, weights=("advantage", {}), baseline=("none", {}), updates=updates)
    return DiffuGrpoObjective(DiffuGrpoConfig(**settings), chosen)


def gradient(
    objective,
    policy: DiffusionPolicy,
    batch: Batch,
    num_rows: int | None = None,
    num_views: int | None = None,
):
    """Return loss and gradient of a batch, in slices of ``num_rows`` and ``num_views``."""
    policy.module.zero_grad(set_to_none=True)
    total = 0.0
    for piece in batch.split(num_rows or batch.num_rows, num_views):
        output = objective.loss(policy, piece)
        output.loss.backward()
        total += output.loss.item()
    return total, {
        name: parameter.grad.clone() for name, parameter in policy.module.named_parameters()
    }
