"""Weight baselines, each through the estimator's own link (DMPO Eq. 12 to 15)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.base import Baseline, WeightEstimator

__all__ = [
    "IndividualBaseline",
    "IndividualBaselineConfig",
    "MeanBaseline",
    "MeanBaselineConfig",
    "ModelBaseline",
    "ModelBaselineConfig",
    "NoBaseline",
    "NoBaselineConfig",
]


class NoBaselineConfig(PluginConfig):
    """Nothing to set."""


class MeanBaselineConfig(PluginConfig):
    """How much of the group's mean weight is subtracted."""

    strength: float = Field(1.0, ge=0, le=1, description="λ, the share that is subtracted.")


class IndividualBaselineConfig(PluginConfig):
    """How much of the oppositely tilted weight is subtracted."""

    strength: float = Field(1.0, ge=0, le=1, description="λ, the share that is subtracted.")


class ModelBaselineConfig(PluginConfig):
    """How much of the current policy's own weight is subtracted."""

    strength: float = Field(1.0, ge=0, le=1, description="λ, the share that is subtracted.")


@final
class NoBaseline(Baseline):
    """w_base = 0: kept for ablation, it fails with small groups under the softmax link."""

    Config: ClassVar[type[PluginConfig]] = NoBaselineConfig
    needs_model_log_ratio = False
    strength = 0.0

    def __init__(self, config: NoBaselineConfig) -> None:
        """Keep the config."""
        self.config = config

    def weights(
        self,
        estimator: WeightEstimator,  # noqa: ARG002
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,  # noqa: ARG002
        estimated: Weights,  # noqa: ARG002
        model_log_ratio: Float[Tensor, "B N"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "B N"]:
        """Return zeros."""
        return torch.zeros_like(rewards)


@final
class MeanBaseline(Baseline):
    """w_base = g(0) = 1, the mean weight of the group (DMPO Eq. 13)."""

    Config: ClassVar[type[PluginConfig]] = MeanBaselineConfig
    needs_model_log_ratio = False

    def __init__(self, config: MeanBaselineConfig) -> None:
        """Keep the config."""
        self.config = config
        self.strength = config.strength

    def weights(
        self,
        estimator: WeightEstimator,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,  # noqa: ARG002
        estimated: Weights,  # noqa: ARG002
        model_log_ratio: Float[Tensor, "B N"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "B N"]:
        """Return the link at ℓ = 0."""
        return estimator.link(torch.zeros_like(rewards))


@final
class IndividualBaseline(Baseline):
    """w_base = g(c·(−r/α + d)), the target tilted by the negative reward (DMPO Eq. 14)."""

    Config: ClassVar[type[PluginConfig]] = IndividualBaselineConfig
    needs_model_log_ratio = False

    def __init__(self, config: IndividualBaselineConfig) -> None:
        """Keep the config."""
        self.config = config
        self.strength = config.strength

    def weights(
        self,
        estimator: WeightEstimator,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,
        estimated: Weights,
        model_log_ratio: Float[Tensor, "B N"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "B N"]:
        """Return the link at the log weights of −r, with the coefficients already chosen."""
        return estimator.link(estimator.log_weights(-rewards, log_ratio, estimated.coefficient))


@final
class ModelBaseline(Baseline):
    """w_base = g(log p_θ − log p_v) at the current θ, gradient stopped (DMPO Eq. 15)."""

    Config: ClassVar[type[PluginConfig]] = ModelBaselineConfig
    needs_model_log_ratio = True

    def __init__(self, config: ModelBaselineConfig) -> None:
        """Keep the config."""
        self.config = config
        self.strength = config.strength

    def weights(
        self,
        estimator: WeightEstimator,
        rewards: Float[Tensor, "B N"],  # noqa: ARG002
        log_ratio: LogRatio | None,  # noqa: ARG002
        estimated: Weights,  # noqa: ARG002
        model_log_ratio: Float[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B N"]:
        """Return the link at the model's own log-ratio.

        Raises:
            ConfigError: If no log-ratio of the current policy is given.
        """
        if model_log_ratio is None:
            raise ConfigError(
                "baseline: 'model' needs log p_θ − log p_v of the current policy; none was given."
            )
        return estimator.link(model_log_ratio.detach())
