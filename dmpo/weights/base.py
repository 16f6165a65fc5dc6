"""The contracts of a weight estimator and of a weight baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig

__all__ = ["Baseline", "WeightEstimator"]


class WeightEstimator(ABC):
    """Turns the rewards and log-ratios of whole groups into weights (METHOD, "Target")."""

    Config: ClassVar[type[PluginConfig]]

    has_link: ClassVar[bool]
    """Whether weights come from log weights through a link, as every baseline but `none`
    requires."""

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether log p_ref − log p_v enters the weights (α > 0)."""

    @abstractmethod
    def log_weights(
        self,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,
        coefficient: Float[Tensor, " B"],
    ) -> Float[Tensor, "B N"]:
        """Return ℓ in nats for the given proximal coefficients.

        Raises:
            ConfigError: If the estimator has no link.
        """

    @abstractmethod
    def link(self, log_weights: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return weights of mean 1 in each group.

        Raises:
            ConfigError: If the estimator has no link.
        """

    @abstractmethod
    def estimate(self, rewards: Float[Tensor, "B N"], log_ratio: LogRatio | None) -> Weights:
        """Return the weights of a buffer, baseline not yet subtracted."""


class Baseline(ABC):
    """What is subtracted from the weights so that small groups work (DMPO Eq. 12)."""

    Config: ClassVar[type[PluginConfig]]

    needs_model_log_ratio: ClassVar[bool]
    """Whether log p_θ − log p_v of the current policy enters, at every gradient step."""
    strength: float
    """λ, the share of the baseline that is subtracted."""

    @abstractmethod
    def weights(
        self,
        estimator: WeightEstimator,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,
        estimated: Weights,
        model_log_ratio: Float[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B N"]:
        """Return w_base, through the estimator's own link.

        Args:
            estimator: Whose link and log weights to use.
            rewards: Rewards of whole groups.
            log_ratio: log p_ref − log p_v, if the estimator needs it.
            estimated: The weights, with the coefficients they were made with.
            model_log_ratio: log p_θ − log p_v in nats, gradient stopped, where needed.
        """
