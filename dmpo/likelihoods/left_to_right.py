"""The likelihood of filling the answer from left to right: JustGRPO (2601.15165)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from dmpo.diffusion.likelihood import sample_standard_error
from dmpo.diffusion.steps import systematic_draws
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.records import Rollouts, Views

__all__ = ["LeftToRightConfig", "LeftToRightLikelihood"]


class LeftToRightConfig(LikelihoodConfig):
    """How many positions are looked at."""

    num_views: PositiveInt | None = Field(
        None, description="K, positions sampled per rollout; null: every one."
    )


@final
class LeftToRightLikelihood(Likelihood):
    """Σ_d log π(o_d | q, o_<d): view d hides the suffix from d on and scores token d.

    Exactly log p of an autoregressive policy with this model, so the likelihood of rollouts that
    were filled from left to right, at one forward pass per token. With K views, evenly spaced
    positions from a random start, each times D/K: unbiased. JustGRPO also scores what lies behind
    the first EOS (``eos: canvas``).
    """

    Config: ClassVar[type[LikelihoodConfig]] = LeftToRightConfig
    needs_path = False

    def __init__(self, config: LeftToRightConfig) -> None:
        """Keep the config."""
        self.config: LeftToRightConfig = config
        self.is_deterministic = config.num_views is None
        self.is_exact = self.is_deterministic

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Hide one suffix per view; rows with fewer positions than views leave some empty."""
        scored = self.scored(rollouts.answer_mask)
        lengths, place = scored.sum(-1), torch.arange(scored.shape[-1], device=scored.device)
        if self.config.num_views is None:
            start = place[: max(1, int(lengths.max()))].expand(*lengths.shape, -1)
            counts = lengths
        else:
            counts = lengths.clamp(max=self.config.num_views)
            start = systematic_draws(scored.float(), counts, self.config.num_views, generator)
        drawn = (place == start.unsqueeze(-1)) & scored.unsqueeze(-2)
        factor = lengths / counts.clamp(min=1)
        return Views(
            hidden=place >= start.unsqueeze(-1), coefficient=drawn * factor[..., None, None]
        )

    def standard_error(
        self, token_log_ratios: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"] | None:
        """Return that of as many positions drawn freely; zero where each is looked at."""
        if self.is_deterministic:
            return torch.zeros_like(token_log_ratios[..., 0, 0])
        if self.config.num_views == 1:
            return None
        coefficient = views.coefficient.to(token_log_ratios.device)
        return sample_standard_error(
            (coefficient * token_log_ratios).sum(-1),
            (coefficient != 0).any(-1),
            1 / coefficient.amax((-2, -1)).clamp(min=1),
        )
