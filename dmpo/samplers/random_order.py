"""Random remasking: LLaDA's schedule with positions that nothing but chance decides.

LLaDA (2502.09992) Algorithm 4. The positions are drawn before the tokens, so each token is a
draw from the policy's own distribution and the path log-probabilities are exact.
"""

from __future__ import annotations

from itertools import accumulate
from typing import final

from jaxtyping import Bool
from torch import Tensor

from dmpo.samplers.block_loop import BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.schedule import ScheduledSamplerConfig

__all__ = ["RandomConfig", "RandomOrderRule", "RandomSampler"]


class RandomConfig(ScheduledSamplerConfig):
    """Settings of the `random` sampler."""


@final
class RandomOrderRule(UnmaskingRule):
    """Reveals positions in a uniformly random order, the scheduled number per step.

    Only the positions about to be revealed are candidates: the vocabulary is projected there
    and nowhere else.

    Args:
        schedule: Tokens revealed in each step of a block.
    """

    sees_tokens = False
    draws_order = True

    def __init__(self, schedule: tuple[int, ...]) -> None:
        """Turn the schedule into the ranks at which each step ends."""
        self._ends = (0, *accumulate(schedule))

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return the next positions of the random order."""
        first, end = self._ends[state.step], self._ends[state.step + 1]
        return (state.order >= first) & (state.order < end)

    def num_slots(self, step: int, most_hidden: int) -> int:  # noqa: ARG002
        """Return the tokens of the step, the same in every row."""
        return self._ends[step + 1] - self._ends[step]

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return every candidate."""
        return proposal.valid


@final
class RandomSampler(BlockSampler):
    """Draws with a fixed schedule, positions at random."""

    Config = RandomConfig

    def rule(self) -> RandomOrderRule:
        """See :meth:`BlockSampler.rule`."""
        return RandomOrderRule(self.config.schedule)
