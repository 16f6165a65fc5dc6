"""Weighted direct discriminative optimisation (DMPO Eq. 16, 2510.08233; DDO, 2503.01103).

Where WDCE pulls the policy towards the tilted target, WDDO tells rollouts apart: weighted ones
should look as if the current policy had made them rather than π_v, unweighted ones the other way
round. Δ₁ and Δ₂ are log p_θ − log p_v on two draws of the likelihood's views that know nothing of
each other. The official code cuts one draw in two, and the halves are each other's complements, so
one estimate is about 10% too large and the other as much too small; its weights sum to 1, which
makes the first term N times smaller than the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.losses import weighted_discriminative_loss
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.frozen import (
    StoredViews,
    behaviour_log_probs,
    buffer_log_probs,
    reference_log_ratio,
    view_sets,
)
from dmpo.objectives.metrics import log_ratio_metrics, real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LogRatio, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig
from dmpo.weights.baselines import NoBaseline
from dmpo.weights.linear import LinearWeights

__all__ = ["WddoConfig", "WddoObjective"]


class WddoConfig(PluginConfig):
    """How sharply rollouts are told apart."""

    beta: float = Field(1.0, gt=0, description="β, factor of Δ = log p_θ − log p_v, in 1/nats.")
    gamma: float = Field(1.0, ge=0, description="γ, factor of the unweighted term.")
    independent: bool = Field(
        True,
        description="Two draws of the likelihood's views, one for each term, so twice as many; "
        "false: both terms look through the same views, and their noise is the same.",
    )
    views: StoredViews = "per_update"


@final
class WddoObjective(Objective):
    """− mean over the buffer of w·log σ(βΔ₁) + γ·log σ(−βΔ₂)."""

    Config: ClassVar[type[PluginConfig]] = WddoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Two draws of an antithetic pair: as many views as WDCE takes.
        "likelihood": {"name": "elbo", "num_views": 2},
        "weights": {"name": "tilted", "alpha": 0.04, "coefficient": 1.0},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: WddoConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If weights could be negative: the loss would have no lower bound.
        """
        self.config = config
        self.parts = parts
        has_negative = not parts.weights.has_link or isinstance(parts.weights, LinearWeights)
        if has_negative or not isinstance(parts.baseline, NoBaseline):
            raise ConfigError(
                "weights, baseline: wddo has no lower bound where a weight is negative; use the "
                "weights tilted or tilted_adaptive with baseline 'none' (γ is what pushes away); "
                f"given {type(parts.weights).__name__} and {type(parts.baseline).__name__}."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether log p_ref enters the weights (α > 0)."""
        return self.parts.weights.needs_reference

    @property
    def ignores_weightless_rows(self) -> bool:
        """Whether there is no unweighted term."""
        return self.config.gamma == 0

    @property
    def _is_doubled(self) -> bool:
        """Whether stored views are two draws, one behind the other on the axis R."""
        return self.config.independent and not self.parts.likelihood.is_deterministic

    @property
    def draw_asks_policy(self) -> bool:
        """Never."""
        return False

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze weights and, for each update, views with log p_v on them."""
        parts = self.parts
        total = rewards.total.to(policy.device)
        log_ratio = self._log_ratio(policy, rollouts, generator)
        weights = parts.weights.estimate(total, log_ratio)
        views = view_sets(parts, self.config.views, lambda: self._views(rollouts, generator))
        behaviour: tuple[Tensor, ...] = ()
        if not parts.is_on_policy:
            behaviour = tuple(buffer_log_probs(parts, policy, rollouts, each) for each in views)
        metrics = weight_metrics(weights)
        if log_ratio is not None:
            metrics |= log_ratio_metrics(parts.weights, total, log_ratio)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=None,
            log_ratio=log_ratio,
            views=views,
            behaviour_log_probs=behaviour,
            reference_log_probs=(),
            metrics=metrics,
        )

    def _log_ratio(
        self, policy: DiffusionPolicy, rollouts: Rollouts, generator: torch.Generator
    ) -> LogRatio | None:
        """Return log p_ref − log p_v where the weights need it, of as many views as a loss has."""
        if not self.needs_reference:
            return None
        first = self._single_log_ratio(policy, rollouts, generator)
        if not (self._is_doubled and self.parts.share_likelihood):
            return first
        one, other = first.value, self._single_log_ratio(policy, rollouts, generator).value
        # Of two replicates, the standard error of the mean is half their distance.
        return LogRatio(value=(one + other) / 2, standard_error=(one - other).abs() / 2)

    def _single_log_ratio(
        self, policy: DiffusionPolicy, rollouts: Rollouts, generator: torch.Generator
    ) -> LogRatio:
        likelihood = self.parts.ratio_likelihood
        views = likelihood.views(rollouts, generator)
        behaviour = behaviour_log_probs(self.parts, likelihood, policy, rollouts, views)
        return reference_log_ratio(self.parts, policy, rollouts, views, behaviour)

    def _views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        likelihood = self.parts.likelihood
        first = likelihood.views(rollouts, generator)
        if not self._is_doubled:
            return first
        return _side_by_side(first, likelihood.views(rollouts, generator))

    def draw(
        self,
        policy: DiffusionPolicy,  # noqa: ARG002
        experience: Experience,
        generator: torch.Generator,  # noqa: ARG002
        *,
        update: int,
    ) -> Batch:
        """Take the views of this update from the buffer; nothing is drawn."""
        index = update % len(experience.views)
        behaviour, weights = experience.behaviour_log_probs, experience.weights.values
        lengths = self.parts.likelihood.lengths(experience.rollouts.answer_mask)
        return batch_rows(
            experience,
            experience.views[index],
            weights,
            num_tokens=float(lengths.sum()),
            behaviour_log_probs=behaviour[index] if behaviour else None,
            metrics=real_weight_metrics(weights, None, None),
        )

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return WDDO of a slice of rows over the rows of the buffer."""
        views, num_rows = batch.views, batch.num_rows_in_buffer
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, views
        )
        stored = batch.behaviour_log_probs
        behaviour = log_probs.detach() if stored is None else stored.to(log_probs.device)
        num_views = views.hidden.shape[-2]
        half = num_views // 2 if self._is_doubled else num_views
        real, fake = (
            self.parts.likelihood.log_ratio(
                log_probs[:, part], behaviour[:, part], views.some(part)
            )
            for part in (slice(half), slice(num_views - half, None))
        )
        loss = weighted_discriminative_loss(
            real,
            fake,
            batch.weights.to(log_probs.device),
            num_rows,
            beta=self.config.beta,
            gamma=self.config.gamma,
        )
        metrics = {"model_log_ratio": (real + fake).detach().sum() / (2 * num_rows)}
        return LossOutput(loss=loss, metrics=metrics)


def _side_by_side(first: Views, second: Views) -> Views:
    """Return the views of both, one draw behind the other."""
    return replace(
        first,
        hidden=torch.cat([first.hidden, second.hidden], dim=-2),
        coefficient=torch.cat([first.coefficient, second.coefficient], dim=-2),
        prompt_hidden=_joined(first.prompt_hidden, second.prompt_hidden),
        always=_joined(first.always, second.always),
    )


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second], dim=-2)
