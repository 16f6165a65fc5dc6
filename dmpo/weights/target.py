"""The tilted target that `tilted`, `tilted_adaptive` and `linear` share."""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.diffusion.tilting import (
    effective_sample_size,
    proximal_log_weights,
    tilted_log_weights,
)
from dmpo.errors import ConfigError
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.base import WeightEstimator

__all__ = [
    "STEP_SIZE",
    "StepConfig",
    "StepWeights",
    "TargetConfig",
    "TargetWeights",
    "target_log_weights",
]

STEP_SIZE = 10.0
"""η = c/α of a coefficient that is left to us: log weights grow by ten times the reward."""


class TargetConfig(PluginConfig):
    """The target p* ∝ p_ref · exp(r/α), or a step of size η from the behaviour policy."""

    alpha: float = Field(
        0.04,
        ge=0,
        allow_inf_nan=False,
        description="Temperature α of the target; 0: a step of size eta, without a reference.",
    )
    eta: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Step size η of log weights η·r, for alpha = 0.",
    )

    @model_validator(mode="after")
    def _check_target(self) -> TargetConfig:
        if self.alpha == 0 and self.eta is None:
            raise ValueError("alpha = 0 needs a step size: give eta (log weights are eta times r)")
        if self.alpha > 0 and self.eta is not None:
            raise ValueError(
                f"eta has no effect with alpha = {self.alpha}: give alpha or eta, "
                "and eta only with alpha = 0"
            )
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether log p_ref − log p_v enters (α > 0)."""
        return self.alpha > 0


class StepConfig(TargetConfig):
    """The target, and how far to step towards it."""

    coefficient: float | None = Field(
        1.0,
        gt=0,
        le=1,
        description="Proximal coefficient c; 1 is the full step; null: 10 times alpha, at most 1.",
    )

    @model_validator(mode="after")
    def _check_coefficient(self) -> StepConfig:
        if self.alpha == 0 and self.coefficient not in (1, None):
            raise ValueError(
                f"coefficient = {self.coefficient} has no place beside alpha = 0: "
                "the step size is eta alone"
            )
        return self

    @property
    def step(self) -> float:
        """Return c; 1 where α = 0, whose step is η alone."""
        if self.coefficient is not None:
            return self.coefficient
        return min(1.0, STEP_SIZE * self.alpha) if self.alpha > 0 else 1.0


def target_log_weights(
    config: TargetConfig,
    rewards: Float[Tensor, "B N"],
    log_ratio: LogRatio | None,
    coefficient: Float[Tensor, " B"],
) -> Float[Tensor, "B N"]:
    """Return ℓ = c·(r/α + d), or c·η·r where α = 0 (METHOD, "Target").

    Args:
        config: α and η.
        rewards: r.
        log_ratio: d = log p_ref − log p_v; needed where α > 0, and only there.
        coefficient: c of each prompt.

    Raises:
        ConfigError: If α > 0 and no log-ratio is given.
    """
    if config.eta is not None:
        return proximal_log_weights(config.eta * rewards, coefficient)
    if log_ratio is None:
        raise ConfigError(
            f"weights: alpha = {config.alpha} needs the log-ratio to the reference; "
            "give one, or set alpha to 0 and give eta."
        )
    full = tilted_log_weights(rewards, log_ratio.value.to(rewards.device), config.alpha)
    return proximal_log_weights(full, coefficient)


class TargetWeights(WeightEstimator):
    """Log weights towards the target; a subclass says through which link, and how far."""

    has_link = True

    def __init__(self, config: TargetConfig) -> None:
        """Keep the config."""
        self.config = config

    @property
    def needs_reference(self) -> bool:
        """Whether α > 0."""
        return self.config.needs_reference

    def log_weights(
        self,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,
        coefficient: Float[Tensor, " B"],
    ) -> Float[Tensor, "B N"]:
        """Return ℓ in nats for the given proximal coefficients."""
        return target_log_weights(self.config, rewards, log_ratio, coefficient)

    def weights_at(
        self,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,
        coefficient: Float[Tensor, " B"],
    ) -> Weights:
        """Return the weights of a buffer for the given proximal coefficients."""
        log_weights = self.log_weights(rewards, log_ratio, coefficient)
        values = self.link(log_weights)
        return Weights(
            values=values,
            log_weights=log_weights,
            ess=effective_sample_size(values),
            coefficient=coefficient,
        )


class StepWeights(TargetWeights):
    """Weights of one fixed step."""

    config: StepConfig

    def estimate(self, rewards: Float[Tensor, "B N"], log_ratio: LogRatio | None) -> Weights:
        """Return the weights of a buffer, baseline not yet subtracted."""
        coefficient = rewards.new_full((rewards.shape[0],), self.config.step)
        return self.weights_at(rewards, log_ratio, coefficient)
