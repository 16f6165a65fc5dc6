"""The tilted target with, per prompt, the largest step that keeps enough of the group."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.diffusion.tilting import group_softmax_weights, largest_coefficient
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.target import TargetConfig, TargetWeights

__all__ = ["TiltedAdaptiveConfig", "TiltedAdaptiveWeights"]


class TiltedAdaptiveConfig(TargetConfig):
    """The target, and how small a sample the step may leave."""

    threshold: float = Field(
        0.7, gt=0, le=1, description="Smallest effective sample size, as a share of the group."
    )
    c_min: float = Field(0.01, gt=0, le=1, description="Smallest proximal coefficient.")
    c_max: float = Field(1.0, gt=0, le=1, description="Largest proximal coefficient.")

    @model_validator(mode="after")
    def _check_range(self) -> TiltedAdaptiveConfig:
        if self.c_min >= self.c_max:
            raise ValueError(
                f"c_min = {self.c_min} is not below c_max = {self.c_max}; "
                "for one fixed coefficient use the weights 'tilted'"
            )
        return self


@final
class TiltedAdaptiveWeights(TargetWeights):
    """w = N · softmax(c·(r/α + d)) with the largest c in [c_min, c_max] of enough ESS.

    At α = 0 the coefficient scales η: ℓ = c·η·r.
    """

    Config: ClassVar[type[PluginConfig]] = TiltedAdaptiveConfig
    config: TiltedAdaptiveConfig

    def link(self, log_weights: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return N · softmax(ℓ)."""
        return group_softmax_weights(log_weights)

    def estimate(self, rewards: Float[Tensor, "B N"], log_ratio: LogRatio | None) -> Weights:
        """Return the weights of a buffer, each prompt with its own coefficient."""
        config = self.config
        full = self.log_weights(rewards, log_ratio, rewards.new_ones(rewards.shape[0]))
        coefficient = largest_coefficient(full, config.threshold, config.c_min, config.c_max)
        return self.weights_at(rewards, log_ratio, coefficient)
