"""The contract of a reward model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task

__all__ = ["RewardModel"]


class RewardModel(ABC):
    """Says how good each rollout is."""

    Config: ClassVar[type[PluginConfig]]

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
