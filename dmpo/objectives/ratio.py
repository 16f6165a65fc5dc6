"""What every objective with a probability ratio shares: frozen views, clipping, a divergence.

A family says in one short file which likelihood it looks through, what its ratio is taken of
(:mod:`dmpo.objectives.units`), and its authors' settings. As for all objectives here, masks are
values stored with the buffer (the authors' codes draw them again from a global seed, and several
see only a part of them because they count micro-batches for updates), statistics are taken over
groups and the whole buffer instead of a device's rows, and padding is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.losses import (
    clipped_surrogate,
    is_clipped,
    is_outside,
    k1_divergence,
    k2_divergence,
    k3_divergence,
)
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import (
    Likelihood,
    counted_coefficient,
    view_log_probs,
)
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.frozen import (
    StoredViews,
    behaviour_log_probs,
    buffer_log_probs,
    real_weights,
    view_sets,
)
from dmpo.objectives.metrics import real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.objectives.units import (
    Level,
    Normalisation,
    reduced,
    row_weights,
    total_weight,
    unit_log_probs,
    unit_sizes,
    unit_weights,
)
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig

__all__ = ["FrozenViewsConfig", "FrozenViewsObjective", "RatioConfig", "RatioObjective"]

_DIVERGENCES = {"k1": k1_divergence, "k2": k2_divergence, "k3": k3_divergence}


class FrozenViewsConfig(PluginConfig):
    """What is told to whatever stores its views with the buffer."""

    beta: float = Field(0.0, ge=0, description="Factor of the divergence.")
    views: StoredViews = "per_update"


class RatioConfig(FrozenViewsConfig):
    """The GRPO family's options; a family overrides the defaults by its authors'."""

    epsilon: float = Field(0.2, gt=0, lt=1, description="Clip range of the ratio around 1.")
    epsilon_high: float | None = Field(
        None, gt=0, description="Clip range above 1, where it differs from epsilon."
    )
    dual_clip: float | None = Field(
        None, gt=1, description="Bound of the surrogate of bad responses, in units of A."
    )
    divergence: Literal["k1", "k2", "k3"] = Field(
        "k3", description="Estimator of the divergence; the gradient of k1 is 0 in mean."
    )
    divergence_to: Literal["reference", "behaviour"] = Field(
        "reference", description="Which policy it pulls towards."
    )
    normalisation: Normalisation = Field(
        "token",
        description="Mean over the tokens of the buffer, over responses of means, over views of "
        "means, or the sum over a constant canvas length (Dr. GRPO).",
    )


class FrozenViewsObjective(Objective, ABC):
    """Stores with each buffer the views of its updates and what π_v and π_ref say of them."""

    config: FrozenViewsConfig

    @property
    @abstractmethod
    def level(self) -> Level:
        """What policies are compared by; a family names it as an attribute of its class."""

    def __init__(self, config: Any, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what this objective does not do.
        """
        self.config = config
        self.parts = parts
        name = type(self).__name__
        if parts.weights.needs_reference:
            raise ConfigError(
                f"weights: {name} has no log-ratio of whole responses in its weights; use "
                "'advantage', or weights with alpha = 0 and eta (the reference enters through "
                "objective.beta)."
            )
        if parts.baseline.needs_model_log_ratio:
            raise ConfigError(
                f"baseline: {name} freezes its advantages with the buffer, so one that follows "
                "the current policy does not go with it; use none, mean or individual."
            )
        if not parts.share_likelihood:
            raise ConfigError(
                f"ratio_likelihood: {name} compares policies on the views of its loss, so one "
                "of its own has no effect; leave it out."
            )
        if self.level != "response" and not parts.likelihood.is_linear:
            raise ConfigError(
                f"likelihood: {name} takes its ratio by tokens or views, and "
                f"{type(parts.likelihood).__name__} only has a value of all views together; use "
                "another, or objective espo."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether a divergence to the reference counts."""
        return self.config.beta > 0

    @property
    def ignores_weightless_rows(self) -> bool:
        """Whether there is no divergence."""
        return self.config.beta == 0

    @property
    def needs_behaviour(self) -> bool:
        """Whether log π_v may differ from log π_θ at all."""
        return not self.parts.is_on_policy

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
        """Freeze advantages and, for each update, views with log π_v and log π_ref on them."""
        parts = self.parts
        total = rewards.total.to(policy.device)
        weights = parts.weights.estimate(total, None)
        views = view_sets(
            parts, self.config.views, lambda: parts.likelihood.views(rollouts, generator)
        )
        behaviour: tuple[Tensor, ...] = ()
        if self.needs_behaviour:
            behaviour = tuple(
                behaviour_log_probs(parts, parts.likelihood, policy, rollouts, each)
                for each in views
            )
        reference: tuple[Tensor, ...] = ()
        if self.needs_reference:
            with policy.reference():
                reference = tuple(buffer_log_probs(parts, policy, rollouts, each) for each in views)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=parts.baseline.weights(parts.weights, total, None, weights, None),
            log_ratio=None,
            views=views,
            behaviour_log_probs=behaviour,
            reference_log_probs=reference,
            view_weights=self.view_weights(policy, rollouts, rewards, views, generator),
            metrics=weight_metrics(weights),
        )

    def view_weights(
        self,
        policy: DiffusionPolicy,  # noqa: ARG002
        rollouts: Rollouts,  # noqa: ARG002
        rewards: Rewards,  # noqa: ARG002
        views: tuple[Views, ...],  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "B N R"] | None:
        """Return an advantage for each view; None: all views of a response share its own."""
        return None

    def row_weights(self, views: Views) -> Float[Tensor, "B N"] | None:  # noqa: ARG002
        """Return what a row's views weigh together, where the loss divides by it; else None."""
        return None

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
        views = experience.views[index]
        behaviour, reference = experience.behaviour_log_probs, experience.reference_log_probs
        advantages = experience.view_weights
        if advantages is None:
            advantages = real_weights(self.parts, experience)
        return batch_rows(
            experience,
            views,
            advantages,
            num_tokens=total_weight(self.level, views),
            behaviour_log_probs=behaviour[index] if behaviour else None,
            reference_log_probs=reference[index] if reference else None,
            row_weights=self.row_weights(views),
            metrics=real_weight_metrics(advantages, None, None),
        )


class RatioObjective(FrozenViewsObjective, ABC):
    """− min(ρA, clip(ρ)·A) + β·divergence, over the units of a family."""

    config: RatioConfig
    divides_by_size: ClassVar[bool] = False
    """Whether log ρ and the divergence are divided by the tokens of a unit (GSPO, 2507.18071)."""

    def __init__(self, config: Any, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what this objective does not do.
        """
        super().__init__(config, parts)
        if config.normalisation == "token" and _threshold(parts.likelihood) > 0:
            raise ConfigError(
                "objective.normalisation: which tokens clip_clean_state lets count depends on the "
                "current policy, so a buffer has no fixed number of them; given 'token', accepted "
                "are 'view', 'response' and 'canvas'."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether a divergence to the reference counts."""
        return self.config.beta > 0 and self.config.divergence_to == "reference"

    @property
    def is_sum_over_views(self) -> bool:
        """Whether each view has units of its own, and a divisor that is known beforehand."""
        return self.level not in ("token", "response") and self._has_fixed_divisor

    @property
    def _has_fixed_divisor(self) -> bool:
        # Of a view with a threshold it is known that something counts, but not how much.
        return self.config.normalisation != "response" or _threshold(self.parts.likelihood) == 0

    def row_weights(self, views: Views) -> Float[Tensor, "B N"] | None:
        """Return them for losses whose views may be cut apart."""
        if not self.is_sum_over_views:
            return None
        return row_weights(self.level, self.config.normalisation, views.coefficient)

    def surrogate(
        self, log_ratio: Float[Tensor, "S ..."], advantages: Float[Tensor, "S ..."]
    ) -> Float[Tensor, "S ..."]:
        """Return what is to be maximised, of each unit."""
        return clipped_surrogate(
            log_ratio, advantages, **self.clip_range, dual_clip=self.config.dual_clip
        )

    def clips(
        self, log_ratio: Float[Tensor, "S ..."], advantages: Float[Tensor, "S ..."]
    ) -> Bool[Tensor, "S ..."]:
        """Return where the clip range takes the gradient away."""
        return is_clipped(log_ratio, advantages, **self.clip_range)

    @property
    def clip_range(self) -> dict[str, float]:
        """How far below 1 and above 1 a ratio may go."""
        low, high = self.config.epsilon, self.config.epsilon_high
        return {"epsilon_low": low, "epsilon_high": low if high is None else high}

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the surrogate and the divergence of a slice, by the whole buffer's counts."""
        config, views = self.config, batch.views
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, views
        )
        # A token is counted by what the current policy says of it, whoever it is compared with.
        coefficient = counted_coefficient(views, log_probs)
        counted = Views(hidden=views.hidden, coefficient=coefficient)
        weights = unit_weights(self.level, coefficient)
        lengths = self.parts.likelihood.lengths(batch.answer_mask)
        sizes = unit_sizes(self.level, coefficient, lengths) if self.divides_by_size else None
        of_rows, num_views = batch.row_weights, None
        if of_rows is not None:
            of_rows = of_rows.to(log_probs.device)
            # Every draw weighs 1, also where only some of a row's are here.
            num_views = int(of_rows.max()) if self.level == "draw" else None

        def per_token(values: Float[Tensor, "S ..."]) -> Float[Tensor, "S ..."]:
            return values if sizes is None else values / sizes

        def mean(values: Float[Tensor, "S ..."]) -> Float[Tensor, ""]:
            return reduced(
                values,
                weights,
                config.normalisation,
                num_rows=batch.num_rows_in_buffer,
                total=batch.num_tokens_in_buffer,
                length=batch.completions.shape[1],
                of_rows=of_rows,
            )

        stored = batch.behaviour_log_probs
        behaviour = log_probs.detach() if stored is None else stored
        difference = self._difference(log_probs, behaviour, counted, num_views)
        log_ratio, advantages = per_token(difference), batch.weights.to(log_probs.device)
        loss = -mean(self.surrogate(log_ratio, advantages))
        kind = loss.dtype
        metrics = {
            "clip_ratio": mean(self.clips(log_ratio.detach(), advantages).to(kind)),
            "outside_ratio": mean(is_outside(log_ratio.detach(), **self.clip_range).to(kind)),
        }
        if config.beta > 0:
            if config.divergence_to == "reference":
                reference = _stored(batch.reference_log_probs)
                difference = self._difference(log_probs, reference, counted, num_views)
            estimate = _DIVERGENCES[config.divergence]
            divergence = mean(per_token(estimate(difference, torch.zeros_like(difference))))
            loss = loss + config.beta * divergence
            metrics["kl"] = divergence.detach()
        return LossOutput(loss=loss, metrics=metrics)

    def _difference(
        self,
        log_probs: Float[Tensor, "S R D"],
        other: Float[Tensor, "S R D"],
        views: Views,
        num_views: int | None,
    ) -> Float[Tensor, "S ..."]:
        """Return log π_θ − log π' of each unit, in nats."""
        likelihood, other = self.parts.likelihood, other.to(log_probs.device)
        if likelihood.is_linear:
            # Subtracted token by token, large sums do not cancel in float32.
            return unit_log_probs(
                self.level, likelihood, log_probs - other, views, num_views=num_views
            )
        return likelihood.log_ratio(log_probs, other, views)


def _threshold(likelihood: Likelihood) -> float:
    return float(getattr(likelihood.config, "clip_clean_state", 0.0))


def _stored(log_probs: Float[Tensor, "S R D"] | None) -> Float[Tensor, "S R D"]:
    if log_probs is None:
        raise ConfigError(
            "batch: this objective compares with stored log-probabilities; none given."
        )
    return log_probs
