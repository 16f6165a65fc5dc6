"""ROAR: random-order autoregressive sampling, whose path likelihood is exact.

DMPO (2510.08233) Eq. 1: o_σ1, o_σ2, … are drawn one after another in a uniformly random order
σ, each given all before it. With blocks, the order is uniform within each. The log-probability
of every token at the moment it was drawn is recorded, at the sampling temperature; the
official code records that of untempered logits.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field, PositiveInt, model_validator

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.samplers.block_loop import BlockSamplerConfig, fill_canvas
from dmpo.samplers.forward import PlainForward
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
class RoarSampler(Sampler):
    """Draws tokens in random order within each block."""

    Config = RoarConfig

    def __init__(self, config: RoarConfig) -> None:
        """Keep the settings."""
        self.config = config
        self.records_path = config.temperature > 0

    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
    ) -> Rollouts:
        """See :meth:`dmpo.samplers.base.Sampler.sample`."""
        return fill_canvas(
            policy,
            prompts,
            RandomOrderRule(self.config.schedule),
            PlainForward(policy),
            self.config,
            num_rollouts=num_rollouts,
            generator=generator,
        )
