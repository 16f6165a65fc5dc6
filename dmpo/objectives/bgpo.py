"""BGPO (2510.11683): each draw of the ELBO has a ratio of its own, bounded from the right side.

With x = (l_θ − l_v)/D of one draw, a good response is weighed by 1 + x ≤ exp(x) and a bad one by
exp(x): a lower bound of the surrogate that is a sum over draws, so that any number of them fits
into memory (``training.micro_batch_views``). The authors write the first as exp(log(1 + x)), which
is not a number for x ≤ −1. A draw is one random subset; D is the answer's length, theirs that of
its padded row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["BgpoConfig", "BgpoObjective", "bounded_ratio"]


class BgpoConfig(RatioConfig):
    """The authors' clip ranges; they use no divergence."""

    dual_clip: float | None = Field(
        3.0, gt=1, description="Bound of the surrogate of bad responses, in units of A."
    )
    normalisation: Normalisation = Field(
        "response",
        description="Mean over the draws of all responses; token and view are the same, canvas "
        "sums over draws and divides by the canvas length.",
    )


@final
class BgpoObjective(RatioObjective):
    """− min(ρ̄A, clip(ρ̄)·A), ρ̄ a bound of the ratio, mean over draws."""

    Config: ClassVar[type[PluginConfig]] = BgpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "elbo"},
        "weights": {"name": "advantage", "scale": "std"},
        "baseline": {"name": "none"},
    }
    level = "draw"
    divides_by_size = True

    def surrogate(
        self, log_ratio: Float[Tensor, "S ..."], advantages: Float[Tensor, "S ..."]
    ) -> Float[Tensor, "S ..."]:
        """Return min(ρ̄A, clip(ρ̄)·A), bounded by the dual clip where A < 0."""
        low, high = self.clip_range.values()
        advantage = advantages.unsqueeze(-1)
        ratio = bounded_ratio(log_ratio, advantage)
        clipped = ratio.clamp(1 - low, 1 + high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        if self.config.dual_clip is None:
            return surrogate
        bounded = torch.maximum(surrogate, self.config.dual_clip * advantage)
        return torch.where(advantage < 0, bounded, surrogate)

    def clips(
        self, log_ratio: Float[Tensor, "S ..."], advantages: Float[Tensor, "S ..."]
    ) -> Bool[Tensor, "S ..."]:
        """Return where the clip range takes the gradient away."""
        low, high = self.clip_range.values()
        advantage = advantages.unsqueeze(-1)
        ratio = bounded_ratio(log_ratio, advantage)
        too_high = (ratio > 1 + high) & (advantage > 0)
        return too_high | ((ratio < 1 - low) & (advantage < 0))


def bounded_ratio(
    log_ratio: Float[Tensor, "S R"], advantages: Float[Tensor, "S 1"]
) -> Float[Tensor, "S R"]:
    """Return 1 + x where A > 0 and exp(x) elsewhere: times A, never more than exp(x)·A.

    Args:
        log_ratio: x, in nats.
        advantages: A.
    """
    is_good = advantages > 0
    # exp would overflow where it is not asked for, and 0 times ∞ has no gradient.
    return torch.where(is_good, 1 + log_ratio, log_ratio.masked_fill(is_good, 0.0).exp())
