"""The negative ELBO by random subsets (DMPO Eq. 2, LLaDA Algorithm 3)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.diffusion.likelihood import (
    exact_coefficients,
    reference_coefficients,
    replicate_estimates,
    replicate_standard_error,
)
from dmpo.diffusion.masking import count_masks, rate_masks
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig, scored_tokens
from dmpo.records import Rollouts, Views

__all__ = ["ElboConfig", "ElboLikelihood"]


class ElboConfig(LikelihoodConfig):
    """How the random subsets are drawn and weighted."""

    num_views: PositiveInt = Field(4, description="R, random subsets per rollout.")
    estimator: Literal["exact", "reference"] = Field(
        "exact",
        description="exact: (D+1)/m, unbiased. reference: the official code's D/max(m,1), tokens "
        "hidden one by one at a rate that antithetic pairs squeeze into [0.1, 1].",
    )
    antithetic: bool = Field(True, description="Pair each subset with its complement.")
    stratified: bool = Field(True, description="Spread the subset sizes of a rollout evenly.")

    @model_validator(mode="after")
    def _check(self) -> ElboConfig:
        if self.antithetic and self.num_views % 2:
            raise ValueError(
                f"num_views is {self.num_views}, but antithetic views come in pairs: "
                "give an even number or set antithetic to false"
            )
        return self


@final
class ElboLikelihood(Likelihood):
    """An unbiased estimate of a lower bound of log p_θ(o|q): R random subsets per rollout."""

    Config: ClassVar[type[LikelihoodConfig]] = ElboConfig
    is_exact = False
    needs_path = False
    is_deterministic = False

    def __init__(self, config: ElboConfig) -> None:
        """Keep the config."""
        self.config: ElboConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Draw R subsets of the tokens that count; what lies behind the answer is hidden always.

        A visible tail of EOS would tell where the answer ends, and predict its first EOS.
        """
        config = self.config
        scored = scored_tokens(rollouts.answer_mask, config.eos)
        lengths = scored.sum(-1)
        draws = {"antithetic": config.antithetic, "stratified": config.stratified}
        if config.estimator == "exact":
            hidden = count_masks(scored, config.num_views, generator, **draws)
            coefficient = exact_coefficients(hidden, lengths)
        else:
            squeeze = config.antithetic
            hidden = rate_masks(scored, config.num_views, generator, **draws, squeeze=squeeze)
            coefficient = reference_coefficients(hidden, lengths)
        return Views(hidden=hidden | ~scored.unsqueeze(-2), coefficient=coefficient)

    def standard_error(
        self, token_log_ratios: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"] | None:
        """Return the standard error over replicates; an antithetic pair is one of them."""
        estimates = replicate_estimates(
            token_log_ratios, views.coefficient.to(token_log_ratios.device)
        )
        return replicate_standard_error(estimates, antithetic=self.config.antithetic)
