"""An upper bound of the log-likelihood from the ELBO's views (SPG, 2510.09541)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.likelihood import power_mean_bound
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.likelihoods.elbo import ElboConfig, draw_subsets
from dmpo.records import Rollouts, Views

__all__ = ["EuboConfig", "EuboLikelihood"]


class EuboConfig(ElboConfig):
    """The ELBO's draws, and the power of the mean that is taken over them."""

    power: float = Field(
        1.5, ge=1, description="β: the mean over views is that of π^β (SPG: 1 to 2)."
    )


@final
class EuboLikelihood(Likelihood):
    """Σ_d (1/β)·log of the weighted mean of π(o_d | view)^β over the views that hide o_d.

    Over all subsets it is at least the ELBO, and equal to it where what is visible does not
    matter. SPG weighs a draw by D/max(m, 1); the default here is the exact (D+1)/m. A bound of
    all views together has no value of one view.
    """

    Config: ClassVar[type[LikelihoodConfig]] = EuboConfig
    is_exact = False
    needs_path = False
    is_linear = False
    is_deterministic = False

    def __init__(self, config: EuboConfig) -> None:
        """Keep the config."""
        self.config: EuboConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Draw the subsets that `elbo` would draw."""
        scored = self.scored(rollouts.answer_mask)
        return draw_subsets(scored, self.config, generator)

    def combine(
        self, token_log_probs: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"]:
        """Return the bound, in nats."""
        coefficient = views.coefficient.to(token_log_probs.device)
        return power_mean_bound(token_log_probs, coefficient, self.config.power)

    def combine_views(
        self,
        token_log_probs: Float[Tensor, "*rows R D"],  # noqa: ARG002
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows R"]:
        """Refuse: the logarithm is taken of a mean over views.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "likelihood: eubo is a bound of all views together and has no value of one view; use "
            "elbo, coupled, block or trace where an objective looks at views one by one."
        )

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],  # noqa: ARG002
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return None: a logarithm of a mean has no replicates."""
        return None
