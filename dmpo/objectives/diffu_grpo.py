"""diffu-GRPO (d1, 2504.12216): PPO's clipped ratio on one-step token log-probabilities.

Every update reads the tokens under prompt masks of its own, and compares π_θ with π_v and π_ref
under the same ones. The authors' code shares prompt masks through a global seed, attends to
padding and averages over a device; here masks are values, padding is left out, and the mean is
over the answer tokens of the whole buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.registry import PluginConfig

__all__ = ["DiffuGrpoConfig", "DiffuGrpoObjective"]


class DiffuGrpoConfig(RatioConfig):
    """The authors' clip range and pull towards the reference."""

    epsilon: float = Field(0.5, gt=0, lt=1, description="Clip range of the ratio around 1.")
    beta: float = Field(0.04, ge=0, description="Factor of the divergence.")


@final
class DiffuGrpoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3, mean over the answer tokens of the buffer."""

    Config: ClassVar[type[PluginConfig]] = DiffuGrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "mean_field", "prompt_mask": 0.15},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }
    level = "token"
