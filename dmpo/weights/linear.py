"""The tilted target through a linear link: noise averages out, weights may be negative."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.tilting import linear_weights
from dmpo.registry import PluginConfig
from dmpo.weights.target import StepConfig, StepWeights

__all__ = ["LinearConfig", "LinearWeights"]


class LinearConfig(StepConfig):
    """Parameters of :class:`LinearWeights`."""


@final
class LinearWeights(StepWeights):
    """w = 1 + ℓ − mean(ℓ), ℓ = c·(r/α + d); at α = 0 the group-relative reward times η.

    With the `model` baseline WDCE becomes the group's log-variance loss (2010.10436).
    """

    Config: ClassVar[type[PluginConfig]] = LinearConfig

    def link(self, log_weights: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return 1 + ℓ − mean(ℓ)."""
        return linear_weights(log_weights)
