"""Importance weights towards the tilted target: the paper's own (DMPO Eq. 10, 24)."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.tilting import effective_sample_size, group_softmax_weights
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.base import WeightEstimator
from dmpo.weights.target import StepConfig, target_log_weights

__all__ = ["TiltedConfig", "TiltedWeights"]


class TiltedConfig(StepConfig):
    """Parameters of :class:`TiltedWeights`."""


@final
class TiltedWeights(WeightEstimator):
    """w = N · softmax(c·(r/α + d)) over each group."""

    Config: ClassVar[type[PluginConfig]] = TiltedConfig
    has_link = True

    def __init__(self, config: TiltedConfig) -> None:
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
        """Return N · softmax(ℓ)."""
        return group_softmax_weights(log_weights)

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
