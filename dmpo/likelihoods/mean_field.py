"""One pass over a fully hidden completion: the one-step likelihood of diffu-GRPO (2504.12216)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.likelihoods.base import Likelihood, LikelihoodConfig, hidden_prompts
from dmpo.records import Rollouts, Views

__all__ = ["MeanFieldConfig", "MeanFieldLikelihood"]


class MeanFieldConfig(LikelihoodConfig):
    """How much of the prompt is hidden beside the completion."""

    prompt_mask: float = Field(
        0.0, ge=0, lt=1, description="Probability of hiding each prompt token (d1: 0.15)."
    )


@final
class MeanFieldLikelihood(Likelihood):
    """Σ_d log π(o_d | q, everything hidden): tokens as if independent, in one forward pass.

    The whole canvas is hidden, also behind the first EOS, so that the answer's length does not
    show; ``eos`` decides which of its tokens count.
    """

    Config: ClassVar[type[LikelihoodConfig]] = MeanFieldConfig
    is_exact = False
    needs_path = False

    def __init__(self, config: MeanFieldConfig) -> None:
        """Keep the config."""
        self.config: MeanFieldConfig = config
        self.is_deterministic = config.prompt_mask == 0

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Hide the canvas and, each with probability ``prompt_mask``, real prompt tokens."""
        scored, share = self.scored(rollouts.answer_mask).unsqueeze(-2), self.config.prompt_mask
        return Views(
            hidden=torch.ones_like(scored),
            coefficient=scored.float(),
            prompt_hidden=hidden_prompts(rollouts, 1, share, generator) if share else None,
        )

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return zero where nothing is drawn, None where a single draw cannot tell."""
        if self.is_deterministic:
            return torch.zeros_like(token_log_ratios[..., 0, 0])
        return None
