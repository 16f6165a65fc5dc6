"""One pass over a fully hidden completion: the one-step likelihood of diffu-GRPO (2504.12216)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.masking import context_masks
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig, scored_tokens
from dmpo.records import Rollouts, Views, expand_rows

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
        scored = scored_tokens(rollouts.answer_mask, self.config.eos).unsqueeze(-2)
        return Views(
            hidden=torch.ones_like(scored),
            coefficient=scored.float(),
            prompt_hidden=self._prompt_hidden(rollouts, generator),
        )

    def _prompt_hidden(self, rollouts: Rollouts, generator: torch.Generator) -> Tensor | None:
        if self.is_deterministic:
            return None
        real = expand_rows(rollouts.prompts.attention_mask, rollouts.num_rollouts)
        real = real.reshape(rollouts.num_prompts, rollouts.num_rollouts, -1)
        return context_masks(real, 1, self.config.prompt_mask, generator)

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return zero where nothing is drawn, None where a single draw cannot tell."""
        if self.is_deterministic:
            return torch.zeros_like(token_log_ratios[..., 0, 0])
        return None
