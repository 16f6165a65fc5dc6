"""Random blocks of the answer, each after the earlier ones: SPG's block masks (2510.09541)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from dmpo.diffusion.likelihood import (
    block_coefficients,
    replicate_estimates,
    replicate_standard_error,
)
from dmpo.diffusion.masking import context_masks, mask_counts, random_subsets, uniform_levels
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig, hidden_prompts
from dmpo.records import Rollouts, Views

__all__ = ["BlockConfig", "BlockLikelihood"]


class BlockConfig(LikelihoodConfig):
    """Which blocks are looked at, and what is hidden beside them."""

    block_length: PositiveInt = Field(
        32, description="Tokens per block, the sampler's; the last may be shorter."
    )
    num_views: PositiveInt = Field(4, description="R, blocks per rollout.")
    context_mask: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability of hiding, unscored, each token of the prompt and of earlier "
        "blocks (SPG: 0.15).",
    )


@final
class BlockLikelihood(Likelihood):
    """Σ over blocks of the ELBO of a block given the earlier ones: the semi-autoregressive bound.

    R blocks, spread evenly over the answer's; in each, m tokens hidden, m uniform on 0..n; later
    blocks hidden; coefficient (number of blocks)·(n+1)/m over R on what is hidden of the block.
    Unbiased without ``context_mask``. SPG computes the mask of the block but does not apply it,
    so it scores later blocks as well, and whatever of earlier ones its context masks hide.
    """

    Config: ClassVar[type[LikelihoodConfig]] = BlockConfig
    is_exact = False
    needs_path = False
    is_deterministic = False

    def __init__(self, config: BlockConfig) -> None:
        """Keep the config."""
        self.config: BlockConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Draw R blocks and a set of each; what lies behind the answer is hidden always."""
        config = self.config
        scored = self.scored(rollouts.answer_mask)
        block = torch.arange(scored.shape[-1], device=scored.device) // config.block_length
        num_blocks = block.masked_fill(~scored, -1).amax(-1) + 1
        chosen = self._choose(num_blocks, generator).unsqueeze(-1)
        inside = (block == chosen) & scored.unsqueeze(-2)
        counts = mask_counts(inside.sum(-1), 1, generator, stratified=False)
        drawn = random_subsets(inside, counts, generator).squeeze(-2)
        hidden = drawn | (block > chosen) | ~scored.unsqueeze(-2)
        prompt_hidden = None
        if config.context_mask:
            earlier = (block < chosen) & scored.unsqueeze(-2)
            hidden = hidden | context_masks(earlier, 1, config.context_mask, generator).squeeze(-2)
            share = config.context_mask
            prompt_hidden = hidden_prompts(rollouts, config.num_views, share, generator)
        return Views(
            hidden=hidden,
            coefficient=block_coefficients(drawn, inside, num_blocks),
            prompt_hidden=prompt_hidden,
        )

    def _choose(
        self, num_blocks: Int[Tensor, "*rows"], generator: torch.Generator
    ) -> Int[Tensor, "*rows R"]:
        levels = uniform_levels(
            num_blocks.shape, self.config.num_views, generator, stratified=True
        ).to(num_blocks.device)
        last = (num_blocks - 1).unsqueeze(-1)
        # A systematic level may round up to 1.
        return torch.minimum((levels * num_blocks.unsqueeze(-1)).long(), last)

    def standard_error(
        self, token_log_ratios: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"] | None:
        """Return the standard error over views; as they repel each other, on the large side."""
        estimates = replicate_estimates(
            token_log_ratios, views.coefficient.to(token_log_ratios.device)
        )
        return replicate_standard_error(estimates, antithetic=False)
