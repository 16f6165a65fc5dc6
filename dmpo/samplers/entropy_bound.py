"""EB-Sampler: as many tokens at once as their entropies allow.

Ben-Hamu et al. 2025 (arXiv 2505.24857), §4: tokens drawn at once are taken for independent,
which costs at most their joint entropy less the largest of them. The positions are chosen
before the tokens are drawn, so the path log-probabilities are exact.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from dmpo.samplers.block_loop import (
    BlockSamplerConfig,
    BlockState,
    Proposal,
    UnmaskingRule,
)
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import entropies_at

__all__ = ["EntropyBoundConfig", "EntropyBoundRule", "EntropyBoundSampler"]


class EntropyBoundConfig(BlockSamplerConfig):
    """Settings of the `entropy_bound` sampler."""

    gamma: float = Field(
        0.1,
        ge=0,
        description="Bound on the sum of the entropies of the tokens drawn at once, the largest "
        "left out, in nats.",
    )


@final
class EntropyBoundRule(UnmaskingRule):
    """Reveals the positions of least entropy, as many as stay within the bound.

    The entropy is that of the softmax at temperature 1, whatever the sampling temperature.

    Args:
        gamma: At least 0, in nats; 0 reveals one token per step.
    """

    sees_tokens = False

    def __init__(self, gamma: float) -> None:
        """Remember the bound."""
        self._gamma = gamma

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def num_slots(self, step: int, most_hidden: int) -> int:  # noqa: ARG002
        """Return the number of what is hidden."""
        return most_hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the candidates within the bound; the one of least entropy always."""
        entropy = entropies_at(proposal.logits, proposal.valid)
        entropy = entropy.masked_fill(~proposal.valid, torch.inf)
        ranked, order = entropy.sort(dim=1, stable=True)
        # In ascending order the largest of the first n entropies is the nth.
        before = ranked.double().cumsum(dim=1).roll(1, dims=1)
        chosen = before <= self._gamma
        chosen[:, 0] = True
        return torch.zeros_like(proposal.valid).scatter_(1, order, chosen) & proposal.valid


@final
class EntropyBoundSampler(BlockSampler):
    """Draws in as many steps as the entropies ask for; records the path."""

    Config = EntropyBoundConfig

    def rule(self) -> EntropyBoundRule:
        """See :meth:`BlockSampler.rule`."""
        return EntropyBoundRule(self.config.gamma)
