"""Fast-dLLM's dynamic rule: the more tokens at once, the surer the model has to be of each.

Wu et al. 2025 (arXiv 2505.22618), §3.3: with confidences c_1 ≥ c_2 ≥ …, n tokens at once are
safe while (n + 1)(1 − c_n) ≤ factor.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dmpo.samplers.block_loop import BlockSamplerConfig, BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import tempered_log_probs

__all__ = ["FactorConfig", "FactorRule", "FactorSampler"]


class FactorConfig(BlockSamplerConfig):
    """Settings of the `factor` sampler."""

    factor: float = Field(1.0, gt=0, description="How unsure of n tokens at once, times n + 1.")
    reference: bool = Field(
        False,
        description="As the authors' code: the least confident candidate is revealed, too, where "
        "all others are sure enough.",
    )


@final
class FactorRule(UnmaskingRule):
    """Reveals the most confident drawn tokens, as many as are sure enough together.

    Args:
        factor: Greater than 0.
        reference: Whether to reveal what the authors' code reveals: one more, the last, where
            all before it pass.
    """

    sees_tokens = True

    def __init__(self, factor: float, *, reference: bool = False) -> None:
        """Remember the settings."""
        self._factor = factor
        self._reference = reference

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def num_slots(self, step: int, most_hidden: int) -> int:  # noqa: ARG002
        """Return the number of what is hidden."""
        return most_hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the candidates that are sure enough together; the best always."""
        confidence = tempered_log_probs(proposal.logits, proposal.tokens, 1.0).exp()
        return self.safe(confidence, proposal.valid)

    def safe(
        self, confidence: Float[Tensor, "S K"], valid: Bool[Tensor, "S K"]
    ) -> Bool[Tensor, "S K"]:
        """Return which candidates with these probabilities are revealed together."""
        ranked, order = confidence.masked_fill(~valid, -torch.inf).sort(
            dim=1, descending=True, stable=True
        )
        rank = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
        passes = ranked >= 1 - self._factor / (rank + 1)
        passes[:, 0] = True
        chosen = passes.cumprod(dim=1).bool()
        if self._reference:
            last = valid.sum(dim=1, keepdim=True)
            chosen |= (rank == last) & (chosen.sum(dim=1, keepdim=True) >= last - 1)
        return torch.zeros_like(valid).scatter_(1, order, chosen) & valid


@final
class FactorSampler(BlockSampler):
    """Draws in as many steps as the model's confidence asks for."""

    Config = FactorConfig

    def rule(self) -> FactorRule:
        """See :meth:`BlockSampler.rule`."""
        return FactorRule(self.config.factor, reference=self.config.reference)
