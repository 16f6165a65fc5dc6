"""Fast-dLLM's parallel decoding: every token that the model is sure enough of, at once.

Wu et al. 2025 (arXiv 2505.22618), §3.3 and Algorithm 1.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dmpo.samplers.block_loop import BlockSamplerConfig, BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import tempered_log_probs
from dmpo.samplers.low_confidence import most_confident

__all__ = ["ThresholdConfig", "ThresholdRule", "ThresholdSampler", "sure_enough"]


class ThresholdConfig(BlockSamplerConfig):
    """Settings of the `threshold` sampler."""

    threshold: float = Field(
        0.9, gt=0, le=1, description="Least probability of a token that is revealed."
    )


@final
class ThresholdRule(UnmaskingRule):
    """Reveals each drawn token whose probability reaches the threshold, and the best always.

    The probability is the softmax's at temperature 1, whatever the sampling temperature.

    Args:
        threshold: Probability, in (0, 1].
    """

    sees_tokens = True

    def __init__(self, threshold: float) -> None:
        """Remember the threshold."""
        self._threshold = threshold

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def num_slots(self, step: int, most_hidden: int) -> int:  # noqa: ARG002
        """Return the number of what is hidden."""
        return most_hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the candidates that are confident enough."""
        confidence = tempered_log_probs(proposal.logits, proposal.tokens, 1.0).exp()
        return sure_enough(confidence, proposal.valid, self._threshold)


@final
class ThresholdSampler(BlockSampler):
    """Draws in as many steps as the model's confidence asks for."""

    Config = ThresholdConfig

    def rule(self) -> ThresholdRule:
        """See :meth:`BlockSampler.rule`."""
        return ThresholdRule(self.config.threshold)


def sure_enough(
    confidence: Float[Tensor, "S K"], valid: Bool[Tensor, "S K"], threshold: float
) -> Bool[Tensor, "S K"]:
    """Return the valid slots that reach the threshold, and each row's best."""
    return ((confidence >= threshold) & valid) | most_confident(confidence, valid, 1)
