"""A sampler that is the block loop with a rule: what every built-in one is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.samplers.block_loop import (
    BlockSamplerConfig,
    Snapshot,
    UnmaskingRule,
    fill_canvas,
    records_path,
)
from dmpo.samplers.forward import ForwardPass, make_forward

__all__ = ["BlockSampler"]


class BlockSampler(Sampler):
    """Fills the canvas block by block; a family says by which rule."""

    Config: ClassVar[type[BlockSamplerConfig]]

    def __init__(self, config: Any) -> None:
        """Keep the settings, an instance of the class's own ``Config``."""
        self.config = config
        is_exact = config.cache == "none" and getattr(config, "cfg_scale", 0.0) == 0
        rule = self.rule()
        self.records_path = records_path(rule, config, is_exact=is_exact)
        self.is_deterministic = config.temperature == 0 and not rule.draws_order

    @abstractmethod
    def rule(self) -> UnmaskingRule:
        """Return the rule that the settings describe."""

    def forward(self, policy: DiffusionPolicy) -> ForwardPass:
        """Return what runs the model for one ``sample`` call."""
        return make_forward(policy, self.config.cache, getattr(self.config, "cfg_scale", 0.0))

    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
    ) -> Rollouts:
        """See :meth:`dmpo.samplers.base.Sampler.sample`."""
        return self.watched_sample(
            policy, prompts, num_rollouts=num_rollouts, generator=generator, on_step=None
        )

    def watched_sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
        on_step: Callable[[Snapshot], None] | None,
    ) -> Rollouts:
        """Return what :meth:`sample` does; ``on_step`` is shown the canvas after each step."""
        return fill_canvas(
            policy,
            prompts,
            self.rule(),
            self.forward(policy),
            self.config,
            num_rollouts=num_rollouts,
            generator=generator,
            on_step=on_step,
        )
