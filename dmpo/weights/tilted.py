"""Importance weights towards the tilted target: the paper's own (DMPO Eq. 10, 24)."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.tilting import group_softmax_weights
from dmpo.registry import PluginConfig
from dmpo.weights.target import StepConfig, StepWeights

__all__ = ["TiltedConfig", "TiltedWeights"]


class TiltedConfig(StepConfig):
    """Parameters of :class:`TiltedWeights`."""


@final
class TiltedWeights(StepWeights):
    """w = N · softmax(c·(r/α + d)) over each group."""

    Config: ClassVar[type[PluginConfig]] = TiltedConfig

    def link(self, log_weights: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return N · softmax(ℓ)."""
        return group_softmax_weights(log_weights)
