"""Coupled-GRPO (DiffuCoder, 2506.20639): token ratios on a subset of the answer and its complement.

Every answer token is read in the fully hidden answer and in one of two complementary views, so
that each has a score under partial context as well. The published score of a token is a weighted
log-probability, ½·(f₀ + f/t): its scale is not 1 but up to 3, so a ratio of it reaches the clip
range sooner than the token's own would (``likelihood.weighting: average`` takes plain means). One
mask rate is drawn for each response where the authors draw one for a whole batch, and the answer
is scored through its first EOS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.registry import PluginConfig

__all__ = ["CoupledGrpoConfig", "CoupledGrpoObjective"]


class CoupledGrpoConfig(RatioConfig):
    """The authors' clip range and pull towards the reference."""

    epsilon: float = Field(0.5, gt=0, lt=1, description="Clip range of the ratio around 1.")
    beta: float = Field(0.01, ge=0, description="Factor of the divergence.")


@final
class CoupledGrpoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3, mean over the answer tokens; A leaves its own reward out."""

    Config: ClassVar[type[PluginConfig]] = CoupledGrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "coupled"},
        "weights": {"name": "advantage", "centre": "leave_one_out"},
        "baseline": {"name": "none"},
    }
    level = "token"
