"""UniGRPO (MMaDA, 2505.15809): token ratios on answers hidden at random rates.

The mean is over the hidden tokens of a view, then over views and responses, so the factors of the
likelihood, constant in a view, cancel: only its masks matter. MMaDA's trainer was not released; the
code it points to (dLLM-RL) sums the divergence over a view where it averages the policy term, so
that the pull grows with the answer's length. Here both are means. The divergence is to the policy
of the rollouts, as there, not to a frozen reference. Rates are spread evenly over the views of a
response (the paper spreads them over updates), four in place of its 2 to 35.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from pydantic import Field

from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.registry import PluginConfig

__all__ = ["UniGrpoConfig", "UniGrpoObjective"]


class UniGrpoConfig(RatioConfig):
    """The authors' clip range and pull towards the policy of the rollouts."""

    beta: float = Field(0.01, ge=0, description="Factor of the divergence.")
    divergence_to: Literal["reference", "behaviour"] = Field(
        "behaviour", description="Which policy it pulls towards."
    )
    normalisation: Normalisation = Field(
        "view",
        description="Mean over views of means, over responses, over the tokens of the buffer, or "
        "the sum over a constant canvas length.",
    )


@final
class UniGrpoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3 of hidden tokens, mean over views of means."""

    Config: ClassVar[type[PluginConfig]] = UniGrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # No complements: each view has a rate of its own.
        "likelihood": {
            "name": "elbo",
            "masking": "bernoulli",
            "num_views": 4,
            "antithetic": False,
        },
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }
    level = "view_token"
