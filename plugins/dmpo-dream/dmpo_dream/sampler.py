"""Dream's sampler: the most certain positions first, as many per step as its noise schedule asks.

Dream (Ye et al. 2025, arXiv 2508.15487) walks the times t from 1 to eps in equal steps. A step
from t to s reveals the share 1 − s/t of what is hidden, rounded down; the last one all the rest.
Certainty is measured on the distribution that tokens are drawn from, so it depends on the
temperature.

Deviations: steps of the schedule that reveal nothing are left out, as they change nothing but
the number of forward passes; the canvas may be cut into blocks, each with a schedule of its own.
The published ``alg_temp``, ``top_p`` and ``top_k`` are not offered, nor ``origin``, which reveals
at random (the sampler ``random`` does, in fixed numbers).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.samplers.block_loop import BlockSamplerConfig, BlockState, Proposal, UnmaskingRule
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.draw import tempered_log_probs
from dmpo.samplers.low_confidence import most_confident

__all__ = [
    "DreamSampler",
    "DreamSamplerConfig",
    "MaskgitPlusRule",
    "PeakedRule",
    "negative_entropy",
    "probability_margin",
    "tokens_per_step",
]


class DreamSamplerConfig(BlockSamplerConfig):
    """Settings of the `dream` sampler."""

    alg: Literal["maskgit_plus", "topk_margin", "entropy"] = Field(
        "entropy",
        description="What is revealed first: the drawn token of highest probability "
        "(maskgit_plus), or the position where the two highest lie farthest apart (topk_margin) "
        "or the entropy is least (entropy).",
    )
    steps: PositiveInt | None = Field(
        None, description="Denoising steps of all blocks together; unset: as many as tokens."
    )
    eps: float = Field(0.001, gt=0, lt=1, description="The time at which the schedule ends.")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens revealed in each step of a block."""
        steps = self.steps or self.gen_length
        return tokens_per_step(self.block_size, steps // self.num_blocks, self.eps)

    @model_validator(mode="after")
    def _steps_fill_the_blocks(self) -> DreamSamplerConfig:
        if self.steps is not None and self.steps % self.num_blocks:
            raise ValueError(
                f"steps {self.steps} cannot be spread over {self.num_blocks} blocks "
                f"(gen_length {self.gen_length} in blocks of {self.block_size})"
            )
        return self


@final
class MaskgitPlusRule(UnmaskingRule):
    """Reveals the scheduled number of tokens, those drawn with the highest probability first.

    Args:
        schedule: Tokens revealed in each step of a block, each at least 1.
        temperature: What logits are divided by; 0 counts as 1.
    """

    sees_tokens = True

    def __init__(self, schedule: tuple[int, ...], temperature: float) -> None:
        """Remember the schedule and the temperature."""
        self._schedule = schedule
        self._temperature = temperature

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the candidates whose tokens are the most probable."""
        confidence = tempered_log_probs(proposal.logits, proposal.tokens, self._temperature or 1.0)
        return most_confident(confidence, proposal.valid, self._schedule[proposal.step])


@final
class PeakedRule(UnmaskingRule):
    """Reveals the scheduled number of tokens where the distribution is most peaked.

    Positions are chosen without a look at the drawn tokens.

    Args:
        schedule: Tokens revealed in each step of a block, each at least 1.
        temperature: What logits are divided by; 0 counts as 1.
        peakedness: From log-probabilities of the whole vocabulary to a number per position.
    """

    sees_tokens = False

    def __init__(
        self,
        schedule: tuple[int, ...],
        temperature: float,
        peakedness: Callable[[Float[Tensor, "S K V"]], Float[Tensor, "S K"]],
    ) -> None:
        """Remember schedule, temperature and measure."""
        self._schedule = schedule
        self._temperature = temperature
        self._peakedness = peakedness

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return all that is hidden."""
        return state.hidden

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return the candidates that the measure ranks highest."""
        log_probs = (proposal.logits / (self._temperature or 1.0)).log_softmax(dim=-1)
        confidence = self._peakedness(log_probs)
        return most_confident(confidence, proposal.valid, self._schedule[proposal.step])


@final
class DreamSampler(BlockSampler):
    """Draws with Dream's schedule, most certain positions first.

    With ``entropy`` and ``topk_margin`` the positions do not depend on the drawn tokens, so the
    path log-probabilities are exact and recorded.
    """

    Config = DreamSamplerConfig

    def rule(self) -> UnmaskingRule:
        """See :meth:`dmpo.samplers.block_sampler.BlockSampler.rule`."""
        schedule, temperature = self.config.schedule, self.config.temperature
        if self.config.alg == "maskgit_plus":
            return MaskgitPlusRule(schedule, temperature)
        return PeakedRule(schedule, temperature, _PEAKEDNESS[self.config.alg])


def negative_entropy(log_probs: Float[Tensor, "S K V"]) -> Float[Tensor, "S K"]:
    """Return Σ_v p_v log p_v at each position, in nats; at most 0."""
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)  # 0·log 0 is 0
    return (finite.exp() * finite).sum(dim=-1)


def probability_margin(log_probs: Float[Tensor, "S K V"]) -> Float[Tensor, "S K"]:
    """Return the highest probability less the second highest at each position."""
    first, second = log_probs.topk(2, dim=-1).values.exp().unbind(dim=-1)
    return first - second


_PEAKEDNESS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "entropy": negative_entropy,
    "topk_margin": probability_margin,
}


def tokens_per_step(num_tokens: int, num_steps: int, eps: float) -> tuple[int, ...]:
    """Return how many tokens each step from t = 1 to t = eps reveals, steps of none left out.

    Computed in float32 like the published code: rounding down makes the last bit count.

    Args:
        num_tokens: Hidden at t = 1, at least 1.
        num_steps: At least 1.
        eps: Between 0 and 1.

    Returns:
        Numbers above 0 that add up to ``num_tokens``; at most ``num_steps`` of them.

    Example:
        >>> tokens_per_step(12, 5, 0.001)
        (2, 2, 2, 2, 4)
    """
    times = torch.linspace(1, eps, num_steps + 1)
    counts, left = [], num_tokens
    for before, after in itertools.pairwise(times[:-1]):
        counts.append(int(left * (1 - after / before)))
        left -= counts[-1]
    return tuple(count for count in (*counts, left) if count)
