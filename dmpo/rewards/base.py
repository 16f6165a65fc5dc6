"""The contract of a reward model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task

__all__ = ["RewardModel", "missing_rows"]


class RewardModel(ABC):
    """Says how good each rollout is.

    A reward may have no opinion on a rollout: then its total there is 0 and its components are
    NaN, which means and sums leave out.
    """

    Config: ClassVar[type[PluginConfig]]

    def begin_step(self, step: int) -> None:  # noqa: B027 - most rewards do not ask
        """Hear which optimizer step the next buffer is for, from 0."""

    @abstractmethod
    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        """Score every rollout; higher is better.

        Args:
            rollouts: Texts, and the examples they answer.
            task: The task the prompts came from, whose grader may be used.

        Returns:
            A finite total per rollout and its named components, float32 on the CPU.

        Raises:
            RewardError: If a reward function raises or does not return one finite number per
                rollout; the message names the function and the row.
        """


def missing_rows(rewards: Rewards) -> Bool[Tensor, "B N"]:
    """Return the rollouts that a reward has no opinion on: all its components are NaN there."""
    values = list(rewards.components.values())
    if not values:
        return torch.zeros_like(rewards.total, dtype=torch.bool)
    return torch.stack(values).isnan().all(dim=0)
