"""An adaptive order with an exact path: the most peaked distributions first.

LLaDA's rule reveals the tokens that were *drawn* with the highest probability, so the product of
their probabilities is not the path's. Here the positions are chosen before anything is drawn, by
the largest probability that each distribution has; the choice then cancels between two policies
that replay the same order, and the recorded log-probabilities are the path's.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Bool
from torch import Tensor

from dmpo.samplers.block_loop import BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.low_confidence import most_confident
from dmpo.samplers.schedule import ScheduledSamplerConfig

__all__ = ["PeakedConfig", "PeakedRule", "PeakedSampler"]


class PeakedConfig(ScheduledSamplerConfig):
    """Settings of the `peaked` sampler."""


@final
class PeakedRule(UnmaskingRule):
    """Reveals the scheduled number of tokens where the distribution is most peaked.

    The peak is the softmax's at temperature 1, whatever the sampling temperature.

    Args:
        schedule: Tokens revealed in each step of a block.
    """

    sees_tokens = False

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
        """Return the candidates with the largest probability of any token."""
        peak = proposal.logits.amax(dim=-1) - proposal.logits.logsumexp(dim=-1)
        return most_confident(peak, proposal.valid, self._schedule[proposal.step])


@final
class PeakedSampler(BlockSampler):
    """Draws with a fixed schedule, most peaked positions first; records the path."""

    Config = PeakedConfig

    def rule(self) -> PeakedRule:
        """See :meth:`BlockSampler.rule`."""
        return PeakedRule(self.config.schedule)
