"""ESPO (2512.03759): one ratio for a whole response, of its ELBO per token.

log ρ = (l_θ − l_v)/D with complementary pairs of random subsets: two pairs of the exact estimator
are the authors' ½(D+1)/k on a subset and ½(D+1)/(D−k) on its complement. The square of l_θ − l_ref
is divided by D as well. D is the answer's length through its first EOS; the authors count the whole
canvas and score the EOS that fills it (``likelihood.eos: canvas``), and their rollouts see padding
that their likelihoods do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["EspoConfig", "EspoObjective"]


class EspoConfig(RatioConfig):
    """The authors' settings for mathematics; their β for puzzles is 10⁻²."""

    beta: float = Field(1e-3, ge=0, description="Factor of the divergence.")
    divergence: Literal["k1", "k2", "k3"] = Field(
        "k2", description="Estimator of the divergence; the gradient of k1 is 0 in mean."
    )
    normalisation: Normalisation = Field(
        "response",
        description="Mean over responses; token and view are the same, canvas divides by the "
        "canvas length besides.",
    )


@final
class EspoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·½(l_θ − l_ref)²/D, mean over responses."""

    Config: ClassVar[type[PluginConfig]] = EspoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "elbo", "num_views": 4},
        "weights": {"name": "advantage", "centre": "leave_one_out"},
        "baseline": {"name": "none"},
    }
    level = "response"
    divides_by_size = True
