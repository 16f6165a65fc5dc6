"""TraceRL (2509.06949) without a value model: token ratios along the path that was taken.

A view is the canvas before a denoising step and scores what that step committed, so one view per
step (``likelihood.merge: 1``): the ratios are those of the path itself, at the price of a forward
pass for every step (``training.micro_batch_views`` bounds the memory). ``merge: 8``, the authors'
choice for LLaDA, costs an eighth and reads tokens of later steps as if the earlier ones were still
hidden. Their mean is over the steps of all responses, so that long ones dominate, and their
divergence is summed over a step; here both are means over the tokens of a step, then over the
steps of a response, then over responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["TraceRlConfig", "TraceRlObjective"]


class TraceRlConfig(RatioConfig):
    """The authors' clip range and pull towards the policy of the rollouts."""

    beta: float = Field(0.01, ge=0, description="Factor of the divergence.")
    divergence_to: Literal["reference", "behaviour"] = Field(
        "behaviour", description="Which policy it pulls towards."
    )
    normalisation: Normalisation = Field(
        "view",
        description="Mean over steps of means, over responses, over the tokens of the buffer, or "
        "the sum over a constant canvas length.",
    )


@final
class TraceRlObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3 of committed tokens, mean over steps of means."""

    Config: ClassVar[type[PluginConfig]] = TraceRlConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "trace", "steps": "merged", "merge": 1},
        "weights": {"name": "advantage", "scale": "population_std", "epsilon": 0.0},
        "baseline": {"name": "none"},
    }
    level = "view_token"
