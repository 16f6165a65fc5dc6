"""The order of the rollouts as reward: what a preference file says, with sampler ``given``."""

from __future__ import annotations

from typing import final

import torch

from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task

__all__ = ["GivenOrderReward", "GivenOrderRewardConfig"]


class GivenOrderRewardConfig(PluginConfig):
    """Parameters of :class:`GivenOrderReward`: none; the order of the columns says it all."""


@final
class GivenOrderReward(RewardModel):
    """1 for the first rollout of a group, 0 for the last, evenly between.

    It reads no text: only with sampler ``given``, whose columns are ordered from the best to the
    worst, does the place of a rollout mean anything.
    """

    Config = GivenOrderRewardConfig

    def __init__(self, config: GivenOrderRewardConfig) -> None:
        """Keep the config."""
        self.config = config

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:  # noqa: ARG002
        """Score every rollout by its place."""
        places = torch.linspace(1, 0, rollouts.num_rollouts)
        total = places.expand(rollouts.num_prompts, -1).contiguous()
        return Rewards(total=total, components={"order": total.clone()})
