"""LLaDA's sampler: reveal the most confident drawn tokens, keep the rest masked.

LLaDA (2502.09992) Algorithm 5, `low_confidence` remasking. The positions depend on the drawn
tokens, so the product of their probabilities is not the path's: no log-probabilities.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dmpo.samplers.block_loop import BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import tempered_log_probs
from dmpo.samplers.schedule import ScheduledSamplerConfig

__all__ = ["LowConfidenceConfig", "LowConfidenceRule", "LowConfidenceSampler", "most_confident"]


class LowConfidenceConfig(ScheduledSamplerConfig):
    """Settings of the `low_confidence` sampler."""


@final
class LowConfidenceRule(UnmaskingRule):
    """Reveals the scheduled number of tokens, those with the highest probability first.

    The probability is the softmax's at temperature 1, whatever the sampling temperature.

    Args:
        schedule: Tokens revealed in each step of a block.
    """

    sees_tokens = True

    def __init__(self, schedule: tuple[int, ...]) -> None:
        """Remember the schedule."""
        self._schedule = schedule

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def num_slots(self, step: int, most_hidden: int) -> int:  # noqa: ARG002
        """Return the number of what is hidden."""
        return most_hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the most confident candidates."""
        confidence = tempered_log_probs(proposal.logits, proposal.tokens, 1.0)
        return most_confident(confidence, proposal.valid, self._schedule[proposal.step])


@final
class LowConfidenceSampler(BlockSampler):
    """Draws with a fixed schedule, most confident tokens first."""

    Config = LowConfidenceConfig

    def rule(self) -> LowConfidenceRule:
        """See :meth:`BlockSampler.rule`."""
        return LowConfidenceRule(self.config.schedule)


def most_confident(
    confidence: Float[Tensor, "S K"], valid: Bool[Tensor, "S K"], count: int
) -> Bool[Tensor, "S K"]:
    """Return the ``count`` valid slots of highest confidence in each row, fewer if there are."""
    ranked = confidence.masked_fill(~valid, -torch.inf)
    best = ranked.topk(min(count, ranked.shape[1]), dim=1).indices
    return torch.zeros_like(valid).scatter_(1, best, True) & valid
