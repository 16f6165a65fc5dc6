"""The tilted target through a linear link: noise averages out, weights may be negative."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.tilting import effective_sample_size, linear_weights
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.base import WeightEstimator
from dmpo.weights.target import StepConfig, target_log_weights

__all__ = ["LinearConfig", "LinearWeights"]


class LinearConfig(StepConfig):
    """Parameters of :class:`LinearWeights`."""


@final
class LinearWeights(WeightEstimator):
    """w = 1 + ℓ − mean(ℓ), ℓ = c·(r/α + d); at α = 0 the group-relative reward times η.

    With the `model` baseline WDCE becomes the group's log-variance loss (2010.10436).
    """

    Config: ClassVar[type[PluginConfig]] = LinearConfig
    has_link = True

    def __init__(self, config: LinearConfig) -> None:
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

    def link(self, log_weights: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return 1 + ℓ − mean(ℓ)."""
        return linear_weights(log_weights)

    def estimate(self, rewards: Float[Tensor, "B N"], log_ratio: LogRatio | None) -> Weights:
        """Return the weights of a buffer, baseline not yet subtracted."""
        coefficient = rewards.new_full((rewards.shape[0],), self.config.step)
        log_weights = self.log_weights(rewards, log_ratio, coefficient)
        values = self.link(log_weights)
        return Weights(
            values=values,
            log_weights=log_weights,
            ess=effective_sample_size(values),
            coefficient=coefficient,
        )
