"""A weighted sum of reward models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel, missing_rows
from dmpo.rewards.running import run_together
from dmpo.tasks.base import Task

__all__ = ["CompositeReward"]


@final
class CompositeReward(RewardModel):
    """Σ over parts of weight · total, of the parts that have an opinion (TRL's ``nansum``).

    Made by the assembly of a run from several rewards, so it has a constructor of its own and
    no name in the registry. The parts score at the same time, each in a thread. Its components
    are each part's total under the part's name (before the weight; NaN where the part has no
    opinion) and the part's own components as ``part/component``.

    Args:
        parts: Name, weight and reward model of each part; names are distinct.

    Raises:
        ConfigError: If there is no part or two share a name.
    """

    Config = PluginConfig

    def __init__(self, parts: Sequence[tuple[str, float, RewardModel]]) -> None:
        """Keep the parts."""
        names = [name for name, _, _ in parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"rewards: names must be distinct and at least one; given {names}.")
        self.parts = tuple(parts)

    def begin_step(self, step: int) -> None:
        """Tell every part."""
        for _, _, reward in self.parts:
            reward.begin_step(step)

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        """Score by every part and add up.

        Raises:
            RewardError: See the parts.
        """
        calls = [functools.partial(part.score, rollouts, task) for _, _, part in self.parts]
        total = torch.zeros(rollouts.num_prompts, rollouts.num_rollouts)
        components: dict[str, Float[Tensor, "B N"]] = {}
        for (name, weight, _), scored in zip(self.parts, run_together(calls), strict=True):
            total = total + weight * scored.total
            components[name] = scored.total.masked_fill(missing_rows(scored), torch.nan)
            components |= {f"{name}/{key}": value for key, value in scored.components.items()}
        return Rewards(total=total, components=components)
