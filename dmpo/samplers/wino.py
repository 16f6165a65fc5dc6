"""WINO: wide in, narrow out. Tokens are drafted boldly, and revoked where they do not hold.

Hong et al. 2025 (arXiv 2507.18578). Behind the sequence stands a *shadow* of the block: mask
tokens at the block's own positions, each of which sees everything but the token it shadows. So
one pass says both what hidden positions might hold, and how likely each drafted token is given
all the others. The authors' code decodes one sequence at a time; here rows run together.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.denoiser import mask_positions
from dmpo.samplers.block_loop import BlockSamplerConfig, BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import tempered_log_probs
from dmpo.samplers.forward import ForwardPass, StepInput

__all__ = ["ShadowForward", "WinoConfig", "WinoRule", "WinoSampler"]

SHARE_AT_ONCE, LEAST_AT_ONCE, MOST_AT_ONCE = 0.7, 5, 20
"""A step drafts at most this share of what is hidden, but 5 are always allowed and 20 the most."""


class WinoConfig(BlockSamplerConfig):
    """Settings of the `wino` sampler."""

    threshold: float = Field(
        0.6, gt=0, le=1, description="Probability above which a token is drafted (wide in)."
    )
    threshold_back: float = Field(
        0.9, ge=0, le=1, description="Probability below which a draft is revoked (narrow out)."
    )

    @model_validator(mode="after")
    def _has_no_cache(self) -> WinoConfig:
        if self.cache != "none":
            raise ValueError(
                f"cache {self.cache} cannot be combined with wino, which revises what a cache "
                "takes for settled"
            )
        return self


@final
class WinoRule(UnmaskingRule):
    """Drafts confident tokens and revokes those that the shadow does not confirm.

    A step revokes fewer than the step before drafted, and none where it drafts one alone; so
    the block fills up.

    Args:
        threshold: A hidden position's token above this probability is drafted.
        threshold_back: A drafted token below this probability is revoked.
    """

    sees_tokens = True

    def __init__(self, threshold: float, threshold_back: float) -> None:
        """Remember the thresholds."""
        self._threshold = threshold
        self._threshold_back = threshold_back

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return the whole block: what is hidden, and what may be revoked."""
        return torch.ones_like(state.hidden)

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the drafts, and what stands of earlier ones."""
        hidden = proposal.hidden
        tokens = torch.where(hidden, proposal.tokens, proposal.current)
        probability = tempered_log_probs(proposal.logits, tokens, 1.0).exp()
        drafted = self._drafted(probability.masked_fill(~hidden, -1.0), hidden)
        revoked = self._revoked(
            probability.masked_fill(hidden, 2.0), drafted.sum(dim=1), proposal.newly_revealed
        )
        return drafted | (~hidden & ~revoked)

    def _drafted(
        self, probability: Float[Tensor, "S K"], hidden: Bool[Tensor, "S K"]
    ) -> Bool[Tensor, "S K"]:
        """Return the hidden positions above the threshold, not too many, and at least one."""
        share = (hidden.sum(dim=1) * SHARE_AT_ONCE).long()
        most = share.clamp(LEAST_AT_ONCE, MOST_AT_ONCE)
        count = torch.minimum((probability > self._threshold).sum(dim=1), most).clamp(min=1)
        return _ranks(probability, descending=True) < count[:, None]

    def _revoked(
        self,
        probability: Float[Tensor, "S K"],
        num_drafted: Int[Tensor, " S"],
        num_drafted_before: Int[Tensor, " S"],
    ) -> Bool[Tensor, "S K"]:
        """Return the earlier drafts below the threshold, fewer than were drafted before."""
        count = (probability < self._threshold_back).sum(dim=1)
        count = torch.minimum(count, (num_drafted_before - 1).clamp(min=0))
        count = count.masked_fill(num_drafted <= 1, 0)
        return _ranks(probability, descending=False) < count[:, None]


@final
class ShadowForward(ForwardPass):
    """Runs over the sequence and the shadow of its block.

    A hidden position's logits are those of the sequence, a revealed one's those of its shadow.

    Args:
        policy: A policy that can be told which token sees which.
    """

    is_exact = False

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Remember the policy."""
        self._policy = policy

    def logits(self, step: StepInput) -> Float[Tensor, "S K V"]:
        """See :meth:`ForwardPass.logits`."""
        start, end = step.block
        length = step.tokens.shape[1]
        shadow = torch.full_like(step.tokens[:, start:end], self._policy.mask_token_id)
        positions = mask_positions(step.attention_mask)
        is_hidden = step.hidden_at
        return self._policy.attended_logits(
            torch.cat([step.tokens, shadow], dim=1),
            torch.where(is_hidden, step.at, step.at - start + length),
            position_ids=torch.cat([positions, positions[:, start:end]], dim=1),
            visible=_shadowed(step.attention_mask, start, end),
        )


@final
class WinoSampler(BlockSampler):
    """Draws in as many steps as drafting and revoking take."""

    Config = WinoConfig

    def rule(self) -> WinoRule:
        """See :meth:`BlockSampler.rule`."""
        return WinoRule(self.config.threshold, self.config.threshold_back)

    def forward(self, policy: DiffusionPolicy) -> ShadowForward:
        """Return the pass that sees the block twice."""
        return ShadowForward(policy)


def _shadowed(attention_mask: Bool[Tensor, "S T"], start: int, end: int) -> Bool[Tensor, "S X X"]:
    """Return who sees whom: no token the shadow, and the shadow all but what it shadows."""
    num_rows, length = attention_mask.shape
    width = end - start
    visible = attention_mask[:, None, :].expand(num_rows, length + width, length).clone()
    shadowed = torch.eye(width, dtype=torch.bool, device=attention_mask.device)
    visible[:, length:, start:end] &= ~shadowed
    shadow = torch.zeros(length + width, width, dtype=torch.bool, device=attention_mask.device)
    shadow[length:] = True
    return torch.cat([visible, shadow.expand(num_rows, -1, -1)], dim=2)


def _ranks(values: Float[Tensor, "S K"], *, descending: bool) -> Int[Tensor, "S K"]:
    """Return the place of each value in its sorted row, from 0."""
    return values.argsort(dim=1, descending=descending, stable=True).argsort(dim=1)
