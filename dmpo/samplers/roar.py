"""ROAR: random-order autoregressive sampling, whose path likelihood is exact.

DMPO (2510.08233) Eq. 1: o_σ1, o_σ2, … are drawn one after another in a uniformly random order
σ, each given all before it. With blocks, the order is uniform within each. The log-probability
of every token at the moment it was drawn is recorded, at the sampling temperature; the
official code records that of untempered logits.
"""

from __future__ import annotations

from typing import final

from pydantic import Field, PositiveInt, model_validator

from dmpo.samplers.block_loop import BlockSamplerConfig
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.random_order import RandomOrderRule

__all__ = ["RoarConfig", "RoarSampler"]


class RoarConfig(BlockSamplerConfig):
    """Settings of the `roar` sampler."""

    tokens_per_step: PositiveInt = Field(
        1, description="Tokens drawn at once, independently given what is revealed."
    )

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens revealed in each step of a block; the last step takes what is left."""
        full, rest = divmod(self.block_size, self.tokens_per_step)
        return (self.tokens_per_step,) * full + ((rest,) if rest else ())

    @model_validator(mode="after")
    def _a_step_stays_in_its_block(self) -> RoarConfig:
        if self.tokens_per_step > self.block_size:
            raise ValueError(
                f"tokens_per_step {self.tokens_per_step} exceeds the block of "
                f"{self.block_size} tokens"
            )
        return self


@final
class RoarSampler(BlockSampler):
    """Draws tokens in random order within each block."""

    Config = RoarConfig

    def rule(self) -> RandomOrderRule:
        """See :meth:`BlockSampler.rule`."""
        return RandomOrderRule(self.config.schedule)
