"""A random set of tokens, its complement, and everything hidden: coupled-GRPO (2506.20639)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.diffusion.masking import bernoulli_masks, uniform_levels, with_complements
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.records import Rollouts, Views

__all__ = ["CoupledConfig", "CoupledLikelihood"]


class CoupledConfig(LikelihoodConfig):
    """How the set is drawn and its tokens are weighed."""

    rate_min: float = Field(0.2, gt=0, lt=1, description="Smallest mask rate t.")
    rate_max: float = Field(0.8, gt=0, lt=1, description="Largest mask rate t.")
    weighting: Literal["rate", "average"] = Field(
        "rate",
        description="rate: 1/t and 1/(1-t) on the set and its complement, as published, which is "
        "1.1 to 3 times a log-probability. average: 1 on both, a mean of log-probabilities.",
    )
    include_full: bool = Field(
        True, description="Average with the view that hides everything; a third forward pass."
    )

    @model_validator(mode="after")
    def _check(self) -> CoupledConfig:
        if self.rate_min > self.rate_max:
            raise ValueError(
                f"rate_min is {self.rate_min}, and must not be above rate_max, {self.rate_max}"
            )
        return self


@final
class CoupledLikelihood(Likelihood):
    """Every token once under everything hidden, and once under a random set or its complement.

    ``weighting: average`` is the mean of the two log-probabilities. ``rate`` divides the second
    by the probability with which its view hides the token, as DiffuCoder's code does although
    exactly one view of the pair hides it: not a normalised log-probability. DiffuCoder draws one
    rate t for the whole batch; here each rollout has its own.
    """

    Config: ClassVar[type[LikelihoodConfig]] = CoupledConfig
    is_exact = False
    needs_path = False
    is_deterministic = False

    def __init__(self, config: CoupledConfig) -> None:
        """Keep the config."""
        self.config: CoupledConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Draw a set of the tokens that count; what lies behind the answer is hidden always."""
        config = self.config
        scored = self.scored(rollouts.answer_mask)
        level = uniform_levels(scored.shape[:-1], 1, generator, stratified=False)
        rates = config.rate_min + (config.rate_max - config.rate_min) * level
        hidden = with_complements(bernoulli_masks(scored, rates, generator), scored)
        rates = rates.to(scored.device)
        coefficient = hidden.float()
        if config.weighting == "rate":
            coefficient = coefficient / torch.cat([rates, 1 - rates], -1).unsqueeze(-1).float()
        if config.include_full:
            everything = scored.unsqueeze(-2)
            hidden = torch.cat([everything, hidden], dim=-2)
            coefficient = torch.cat([everything.float(), coefficient], dim=-2) / 2
        return Views(hidden=hidden | ~scored.unsqueeze(-2), coefficient=coefficient)

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],  # noqa: ARG002
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return None: a set and its complement are one replicate."""
        return None
