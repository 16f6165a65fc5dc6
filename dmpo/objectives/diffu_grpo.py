"""diffu-GRPO (d1, 2504.12216): PPO's clipped ratio on one-step token log-probabilities.

Every update reads the tokens under prompt masks of its own, and compares π_θ with π_v and π_ref
under the same ones. The authors' code shares prompt masks through a global seed, attends to
padding and averages over a device; here masks are values, padding is left out, and the mean is
over the answer tokens of the whole buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.losses import (
    clipped_surrogate,
    is_clipped,
    is_outside,
    k3_divergence,
    masked_token_mean,
)
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import rollout_log_probs, scored_tokens, view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.metrics import real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig

__all__ = ["DiffuGrpoConfig", "DiffuGrpoObjective"]


class DiffuGrpoConfig(PluginConfig):
    """Clip range and strength of the pull towards the reference."""

    epsilon: float = Field(0.5, gt=0, lt=1, description="Clip range of the ratio around 1.")
    epsilon_high: float | None = Field(
        None, gt=0, description="Clip range above 1, where it differs from epsilon."
    )
    beta: float = Field(0.04, ge=0, description="Factor of the k3 divergence to the reference.")


@final
class DiffuGrpoObjective(Objective):
    """− min(ρA, clip(ρ)·A) + β·k3, mean over the answer tokens of the buffer."""

    Config: ClassVar[type[PluginConfig]] = DiffuGrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "mean_field", "prompt_mask": 0.15},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: DiffuGrpoConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the weights need likelihoods that this objective does not compare.
        """
        self.config = config
        self.parts = parts
        if parts.weights.needs_reference:
            raise ConfigError(
                "weights: diffu_grpo has no log-ratio of whole responses; use 'advantage', or "
                "weights with alpha = 0 and eta (the reference enters through objective.beta)."
            )
        if parts.baseline.needs_model_log_ratio:
            raise ConfigError(
                "baseline: diffu_grpo freezes its advantages with the buffer, so one that follows "
                "the current policy does not go with it; use none, mean or individual."
            )
        if not parts.share_likelihood:
            raise ConfigError(
                "ratio_likelihood: diffu_grpo compares policies on the views of its loss, so one "
                "of its own has no effect; leave it out."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether β > 0."""
        return self.config.beta > 0

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze advantages and, for each update, views with log π_v and log π_ref on them."""
        parts = self.parts
        total = rewards.total.to(policy.device)
        weights = parts.weights.estimate(total, None)
        baseline = parts.baseline.weights(parts.weights, total, None, weights, None)
        num_sets = 1 if parts.likelihood.is_deterministic else parts.updates_per_buffer
        views = tuple(parts.likelihood.views(rollouts, generator) for _ in range(num_sets))
        behaviour = tuple(self._log_probs(policy, rollouts, each) for each in views)
        reference: tuple[Tensor, ...] = ()
        if self.needs_reference:
            with policy.reference():
                reference = tuple(self._log_probs(policy, rollouts, each) for each in views)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=baseline,
            log_ratio=None,
            views=views,
            behaviour_log_probs=behaviour,
            reference_log_probs=reference,
            metrics=weight_metrics(weights),
        )

    def _log_probs(
        self, policy: DiffusionPolicy, rollouts: Rollouts, views: Views
    ) -> Float[Tensor, "B N R D"]:
        return rollout_log_probs(
            policy, rollouts, views, rows_per_forward=self.parts.rows_per_forward
        )

    def draw(
        self,
        policy: DiffusionPolicy,  # noqa: ARG002
        experience: Experience,
        generator: torch.Generator,  # noqa: ARG002
        *,
        update: int,
    ) -> Batch:
        """Take the views of this update from the buffer; nothing is drawn."""
        parts = self.parts
        index = update if len(experience.views) > 1 else 0
        reference = experience.reference_log_probs
        advantages = experience.weights.values
        if experience.baseline_weights is not None:
            advantages = advantages - parts.baseline.strength * experience.baseline_weights
        return batch_rows(
            experience,
            experience.views[index],
            advantages,
            num_tokens=float(parts.likelihood.lengths(experience.rollouts.answer_mask).sum()),
            behaviour_log_probs=experience.behaviour_log_probs[index],
            reference_log_probs=reference[index] if reference else None,
            metrics=real_weight_metrics(advantages, None, None),
        )

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the clipped surrogate and the divergence of a slice, per token of the buffer."""
        config = self.config
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
        )
        current = _token_sums(log_probs, batch.views)
        log_ratio = current - _token_sums(_stored(batch.behaviour_log_probs), batch.views)
        advantages = batch.weights.to(current.device)
        counted = scored_tokens(batch.answer_mask, self.parts.likelihood.config.eos)
        counted, total = counted.to(current.device), batch.num_tokens_in_buffer
        high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        clip = {"epsilon_low": config.epsilon, "epsilon_high": high}
        loss = -masked_token_mean(clipped_surrogate(log_ratio, advantages, **clip), counted, total)
        clipped = is_clipped(log_ratio.detach(), advantages, **clip)
        outside = is_outside(log_ratio.detach(), **clip)
        metrics = {
            "clip_ratio": masked_token_mean(clipped.to(loss.dtype), counted, total),
            "outside_ratio": masked_token_mean(outside.to(loss.dtype), counted, total),
        }
        if config.beta > 0:
            reference = _token_sums(_stored(batch.reference_log_probs), batch.views)
            divergence = masked_token_mean(k3_divergence(current, reference), counted, total)
            loss = loss + config.beta * divergence
            metrics["kl"] = divergence.detach()
        return LossOutput(loss=loss, metrics=metrics)


def _token_sums(log_probs: Float[Tensor, "S R D"], views: Views) -> Float[Tensor, "S D"]:
    """Return Σ_r coefficient · log π: one log-probability per token."""
    return (views.coefficient.to(log_probs.device) * log_probs).sum(-2)


def _stored(log_probs: Float[Tensor, "S R D"] | None) -> Float[Tensor, "S R D"]:
    if log_probs is None:
        raise ConfigError("batch: diffu_grpo compares with stored log-probabilities; none given.")
    return log_probs
