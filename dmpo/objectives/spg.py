"""Sandwiched policy gradient (SPG, 2510.09541): a lower bound for good responses, an upper for bad.

Pushing an ELBO down need not push the likelihood down, so where A < 0 an upper bound (EUBO) takes
its place, or a mixture of both. No ratio, no reference; every update draws fresh views, and both
bounds look through the same ones. The authors weigh a row by its length inside a micro-batch, which
is ``normalisation: canvas`` here up to a constant, and average over tokens that were hidden where
the bounds are sums over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.diffusion.likelihood import power_mean_bound
from dmpo.diffusion.losses import weighted_denoising_cross_entropy
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import counted_coefficient, view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.frozen import real_weights
from dmpo.objectives.metrics import real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts
from dmpo.registry import PluginConfig

__all__ = ["SpgConfig", "SpgObjective", "sandwiched_bound"]

Negative = Literal["eubo", "mix", "elbo", "zero"]
"""What stands for log p of a response that is worse than its group."""

_OMEGA, _POWER = 0.5, 1.5


class SpgConfig(PluginConfig):
    """Which bound bad responses are pushed down by."""

    negative: Negative = Field(
        "mix",
        description="Where A < 0: the upper bound, a mixture, the lower bound as where A > 0, or "
        "nothing (such responses are left out).",
    )
    omega: float = Field(
        _OMEGA, ge=0, le=1, description="Share of the upper bound in the mixture (negative: mix)."
    )
    power: float = Field(
        _POWER,
        ge=1,
        description="Power of the upper bound's mean over views (negative: eubo or mix); the "
        "authors take 1 to 2.",
    )
    normalisation: Literal["response", "canvas"] = Field(
        "response",
        description="What a response's log-likelihood is divided by: its own length D, or the "
        "canvas length, the same for all, so that longer responses weigh more.",
    )

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> SpgConfig:
        if self.omega != _OMEGA and self.negative != "mix":
            raise ValueError(f"omega = {self.omega} has no effect without negative: mix")
        if self.power != _POWER and self.negative not in ("eubo", "mix"):
            raise ValueError(f"power = {self.power} has no effect without negative: eubo or mix")
        return self


@final
class SpgObjective(Objective):
    """− mean over the buffer of A · l_θ/D; l is the ELBO where A > 0, else ``negative``."""

    Config: ClassVar[type[PluginConfig]] = SpgConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "block", "num_views": 2},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: SpgConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what this objective does not do.
        """
        self.config = config
        self.parts = parts
        if parts.weights.needs_reference:
            raise ConfigError(
                "weights: spg has neither a reference nor a ratio; use 'advantage', or weights "
                "with alpha = 0 and eta."
            )
        if parts.baseline.needs_model_log_ratio:
            raise ConfigError(
                "baseline: spg has no ratio to the behaviour policy, so 'model' does not go with "
                "it; use none, mean or individual."
            )
        if not parts.likelihood.is_linear:
            raise ConfigError(
                "likelihood: spg takes the upper bound of the views of a lower one (block, elbo); "
                f"{type(parts.likelihood).__name__} is no sum over tokens."
            )
        if not parts.share_likelihood:
            raise ConfigError("ratio_likelihood: spg has no ratio, so it has no effect.")

    @property
    def needs_reference(self) -> bool:
        """Never."""
        return False

    @property
    def draw_asks_policy(self) -> bool:
        """Never."""
        return False

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Experience:
        """Freeze the advantages; nothing else is kept."""
        parts, total = self.parts, rewards.total.to(policy.device)
        weights = parts.weights.estimate(total, None)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=parts.baseline.weights(parts.weights, total, None, weights, None),
            log_ratio=None,
            views=(),
            behaviour_log_probs=(),
            reference_log_probs=(),
            metrics=weight_metrics(weights),
        )

    def draw(
        self,
        policy: DiffusionPolicy,  # noqa: ARG002
        experience: Experience,
        generator: torch.Generator,
        *,
        update: int,  # noqa: ARG002
    ) -> Batch:
        """Draw fresh views."""
        parts, rollouts = self.parts, experience.rollouts
        real = real_weights(parts, experience)
        return batch_rows(
            experience,
            parts.likelihood.views(rollouts, generator),
            real,
            num_tokens=float(parts.likelihood.lengths(rollouts.answer_mask).sum()),
            metrics=real_weight_metrics(real, None, None),
        )

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the policy gradient's loss of a slice of rows over the rows of the buffer."""
        config, likelihood, views = self.config, self.parts.likelihood, batch.views
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, views
        )
        weights = batch.weights.to(log_probs.device)
        lower = likelihood.combine(log_probs, views)
        upper = power_mean_bound(log_probs, counted_coefficient(views, log_probs), config.power)
        bound = sandwiched_bound(lower, upper, weights, config.negative, config.omega)
        lengths = likelihood.lengths(batch.answer_mask).to(log_probs.device)
        num_rows = batch.num_rows_in_buffer
        divisors = lengths
        if config.normalisation == "canvas":
            divisors = torch.full_like(lengths, batch.completions.shape[1])
        gap = ((upper - lower).detach() / lengths.clamp(min=1)).sum() / num_rows
        return LossOutput(
            loss=weighted_denoising_cross_entropy(bound, weights, divisors, num_rows),
            metrics={"bound_gap": gap},
        )


def sandwiched_bound(
    lower: Float[Tensor, " S"],
    upper: Float[Tensor, " S"],
    advantages: Float[Tensor, " S"],
    negative: Negative,
    omega: float,
) -> Float[Tensor, " S"]:
    """Return the lower bound of log p where A ≥ 0, and what ``negative`` says elsewhere.

    Args:
        lower: ELBO, nats.
        upper: EUBO, nats.
        advantages: A.
        negative: See :class:`SpgConfig`.
        omega: Share of the upper bound in a mixture.
    """
    share = {"eubo": 1.0, "mix": omega, "elbo": 0.0, "zero": 0.0}[negative]
    below = torch.lerp(lower, upper, share)
    if negative == "zero":
        below = torch.zeros_like(lower)
    return torch.where(advantages < 0, below, lower)
