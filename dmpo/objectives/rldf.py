"""RLDF, also called Drift (2605.25638): towards the final answer from states of the path.

From a few denoising states of a rollout all hidden answer tokens are trained, but only those that
the policy finds probable already, beside the ones that the state's own step committed. The choice
follows the current policy and takes no gradient; a view is normalised by the weight of its own
chosen tokens, so that cutting a batch changes nothing. States are drawn in favour of steps where
the policy was unsure, and as in the authors' code nothing corrects for it (``likelihood.correct``
does). Theirs attends to padding and, where padding is EOS, never trains one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["RldfConfig", "RldfObjective"]


class RldfConfig(RatioConfig):
    """The authors' settings for LLaDA; their β for Dream is 0.04."""

    beta: float = Field(0.01, ge=0, description="Factor of the divergence.")
    normalisation: Normalisation = Field(
        "view",
        description="Mean over states of means, over responses, or the sum over a constant canvas "
        "length; token only where likelihood.clip_clean_state is 0.",
    )


@final
class RldfObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3 of probable or just committed tokens, mean over states."""

    Config: ClassVar[type[PluginConfig]] = RldfConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {
            "name": "trace",
            "steps": "sampled",
            "num_views": 4,
            "probability": "confidence",
            "correct": False,
            "clip_clean_state": 0.6,
        },
        "weights": {"name": "advantage", "scale": "std", "epsilon": 0.0, "floor": 0.01},
        "baseline": {"name": "none"},
    }
    level = "view_token"
