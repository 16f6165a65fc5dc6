"""JustGRPO (2601.15165): the policy as a left-to-right model, GRPO on its exact likelihood.

Token d is read with all before it visible and all from it on hidden: the likelihood of decoding
from left to right, one forward pass for every token (``likelihood.num_views`` draws some of them).
So rollouts are meant to be made that way: sampler `roar` with ``block_length: 1``. The authors'
ratio is 1 by construction, so that their clip range has no effect, they score the whole canvas,
and gradients that are not numbers become 0 unseen; here the ratio is to the policy of the rollouts
and the answer ends with its first EOS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["JustGrpoConfig", "JustGrpoObjective"]


class JustGrpoConfig(RatioConfig):
    """The authors' settings; they use no divergence."""

    normalisation: Normalisation = Field(
        "canvas",
        description="Sum over a constant canvas length, or the mean over tokens, responses or "
        "views.",
    )


@final
class JustGrpoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) of tokens read from left to right, summed over the canvas length."""

    Config: ClassVar[type[PluginConfig]] = JustGrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "left_to_right"},
        "weights": {"name": "advantage", "scale": "std"},
        "baseline": {"name": "none"},
    }
    level = "view_token"
