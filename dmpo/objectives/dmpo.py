"""Distribution matching policy optimization (2510.08233): weighted denoising cross-entropy.

Implements WDCE (Eq. 11) with the weights of Eq. 10 and 24 and the baselines of Eq. 12 to 15, on
any likelihood. Beyond the paper: log p_ref, log p_v and log p_θ are compared on the same stored
views (so that their noise cancels), in evaluation mode, per group, and the noise is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.losses import weighted_denoising_cross_entropy
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.frozen import behaviour_log_probs, buffer_log_probs, reference_log_ratio
from dmpo.objectives.metrics import log_ratio_metrics, real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LogRatio, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig
from dmpo.weights.baselines import NoBaseline

__all__ = ["DmpoConfig", "DmpoObjective"]


class DmpoConfig(PluginConfig):
    """What the loss itself can be told; the rest is in its parts."""

    share_views: bool = Field(
        False,
        description="Train on the views the weights were computed on, the same at every update, "
        "in place of fresh ones; the noise of weights and gradient then correlates.",
    )
    normalisation: Literal["response", "canvas"] = Field(
        "response",
        description="What a response's log-likelihood is divided by: its own length D, or the "
        "canvas length, the same for all, so that longer responses weigh more (wd1).",
    )


@final
class DmpoObjective(Objective):
    """Mean over the buffer of (w − λ·w_base) · L̂_θ(o|q)/D."""

    Config: ClassVar[type[PluginConfig]] = DmpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Small steps without a baseline: docs/objectives/noise.md has the measurements.
        "likelihood": {"name": "elbo"},
        "weights": {"name": "tilted", "alpha": 0.02, "coefficient": None},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: DmpoConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts contradict each other.
        """
        self.config = config
        self.parts = parts
        if not (parts.weights.has_link or isinstance(parts.baseline, NoBaseline)):
            raise ConfigError(
                f"baseline: {type(parts.baseline).__name__} goes through the link of the weights, "
                f"and {type(parts.weights).__name__} have none: they are centred already. Use "
                "baseline 'none', or the weights tilted, tilted_adaptive or linear."
            )
        if config.share_views and not parts.share_likelihood:
            raise ConfigError(
                "objective.share_views: the loss can train on the views of the weights only where "
                "likelihood and ratio_likelihood are the same; given "
                f"{parts.likelihood.config!r} and {parts.ratio_likelihood.config!r}."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether log p_ref enters the weights (α > 0)."""
        return self.parts.weights.needs_reference

    @property
    def is_sum_over_views(self) -> bool:
        """Whether the likelihood is linear."""
        return self.parts.likelihood.is_linear

    @property
    def draw_asks_policy(self) -> bool:
        """Whether a baseline follows the current policy."""
        return self._follows_model

    @property
    def _follows_model(self) -> bool:
        """Whether log p_θ − log p_v is ever more than 0, where a baseline asks for it."""
        return self.parts.baseline.needs_model_log_ratio and not self.parts.is_on_policy

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze weights, log-ratios, and what the `model` baseline compares θ with."""
        parts = self.parts
        total = rewards.total.to(policy.device)
        views, behaviour, log_ratio = self._compare(policy, rollouts, generator)
        weights = parts.weights.estimate(total, log_ratio)
        baseline = None
        if not parts.baseline.needs_model_log_ratio:
            baseline = parts.baseline.weights(parts.weights, total, log_ratio, weights, None)
        metrics = weight_metrics(weights)
        if log_ratio is not None:
            metrics |= log_ratio_metrics(parts.weights, total, log_ratio)
        # Where every update uses them again, views and log p_v stay with the buffer.
        stored = self._follows_model
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=baseline,
            log_ratio=log_ratio,
            views=(views,) if views is not None and (stored or self.config.share_views) else (),
            behaviour_log_probs=(behaviour,) if behaviour is not None and stored else (),
            reference_log_probs=(),
            metrics=metrics,
        )

    def _compare(
        self, policy: DiffusionPolicy, rollouts: Rollouts, generator: torch.Generator
    ) -> tuple[Views | None, Float[Tensor, "B N R D"] | None, LogRatio | None]:
        """Return views, log p_v on them, and log p_ref − log p_v, as far as they are needed."""
        likelihood = self.parts.ratio_likelihood
        compares = self.needs_reference or self._follows_model
        if not (compares or self.config.share_views):
            return None, None, None
        views = likelihood.views(rollouts, generator)
        if not compares:
            return views, None, None
        behaviour = behaviour_log_probs(self.parts, likelihood, policy, rollouts, views)
        if not self.needs_reference:
            return views, behaviour, None
        log_ratio = reference_log_ratio(self.parts, policy, rollouts, views, behaviour)
        return views, behaviour, log_ratio

    def draw(
        self,
        policy: DiffusionPolicy,
        experience: Experience,
        generator: torch.Generator,
        *,
        update: int,
    ) -> Batch:
        """Draw fresh views, and the `model` baseline's weights at the current θ."""
        parts = self.parts
        rollouts, weights = experience.rollouts, experience.weights
        if self.config.share_views:
            views = experience.views[0]
        else:
            views = parts.likelihood.views(rollouts, generator)
        baseline, model_log_ratio = experience.baseline_weights, None
        if baseline is None:
            model_log_ratio = self._model_log_ratio(policy, experience, update=update)
            baseline = parts.baseline.weights(
                parts.weights,
                experience.rewards.total.to(policy.device),
                experience.log_ratio,
                weights,
                model_log_ratio,
            )
        real = weights.values - parts.baseline.strength * baseline
        metrics = real_weight_metrics(
            real, None if model_log_ratio is None else baseline, model_log_ratio
        )
        num_tokens = float(parts.likelihood.lengths(rollouts.answer_mask).sum())
        return batch_rows(experience, views, real, num_tokens=num_tokens, metrics=metrics)

    def _model_log_ratio(
        self, policy: DiffusionPolicy, experience: Experience, *, update: int
    ) -> Float[Tensor, "B N"]:
        """Return log p_θ − log p_v on the stored views, at the current θ."""
        if update == 0:
            # θ is still the behaviour policy.
            return torch.zeros_like(experience.weights.values)
        views, behaviour = experience.views[0], experience.behaviour_log_probs[0]
        current = buffer_log_probs(self.parts, policy, experience.rollouts, views)
        return self.parts.ratio_likelihood.log_ratio(current, behaviour.to(current.device), views)

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return WDCE of a slice of rows over the rows of the buffer."""
        likelihood = self.parts.likelihood
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
        )
        log_likelihood = likelihood.combine(log_probs, batch.views)
        lengths = likelihood.lengths(batch.answer_mask).to(log_likelihood.device)
        divisors = lengths
        if self.config.normalisation == "canvas":
            divisors = torch.full_like(lengths, batch.completions.shape[1])
        weights = batch.weights.to(log_likelihood.device)
        num_rows = batch.num_rows_in_buffer
        plain = weighted_denoising_cross_entropy(
            log_likelihood.detach(), torch.ones_like(weights), lengths, num_rows
        )
        return LossOutput(
            loss=weighted_denoising_cross_entropy(log_likelihood, weights, divisors, num_rows),
            metrics={"cross_entropy": plain / max(batch.share_kept, 1 / num_rows)},
        )
