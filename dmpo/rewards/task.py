"""The task's own grader as reward."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, final

import torch

from dmpo.errors import RewardError
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task

__all__ = ["TaskReward", "TaskRewardConfig"]


class TaskRewardConfig(PluginConfig):
    """Parameters of :class:`TaskReward`: none; the task says what counts."""


@final
class TaskReward(RewardModel):
    """Σ over figures of ``task.reward_weights`` · ``task.grade``.

    Every figure of the grader is a component, also those without a weight. Equal completions
    of one prompt are graded once.
    """

    Config = TaskRewardConfig

    def __init__(self, config: TaskRewardConfig) -> None:
        """Keep the config."""
        self.config = config

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        """Grade every rollout.

        Raises:
            RewardError: If the grader raises, gives no finite figure, or lacks one that the
                task's weights name.
        """
        rows = [_grade_group(rollouts, task, prompt) for prompt in range(rollouts.num_prompts)]
        names = rows[0][0].keys()
        if any(grades.keys() != names for row in rows for grades in row):
            raise RewardError(
                f"{type(task).__name__}.grade gives other figures for some examples than "
                f"{', '.join(names)}."
            )
        components = {
            name: torch.tensor([[grades[name] for grades in row] for row in rows]) for name in names
        }
        total = torch.zeros(rollouts.num_prompts, rollouts.num_rollouts)
        for name, weight in task.reward_weights.items():
            total += weight * components[name]
        return Rewards(total=total, components=components)


def _grade_group(rollouts: Rollouts, task: Task, prompt: int) -> list[Mapping[str, float]]:
    example, texts = rollouts.prompts.examples[prompt], rollouts.texts[prompt]
    graded = {}
    for row, text in enumerate(texts):
        if text not in graded:
            where = f"{type(task).__name__}.grade, prompt {prompt}, rollout {row}"
            try:
                grades = task.grade(example, text)
            except (Exception, SystemExit) as error:  # a third party's grader may raise anything
                raise RewardError(f"{where}: {type(error).__name__}: {error}") from error
            graded[text] = _checked(grades, task, where)
    return [graded[text] for text in texts]


def _checked(grades: Mapping[str, Any], task: Task, where: str) -> Mapping[str, float]:
    for name in task.reward_weights:
        if name not in grades:
            raise RewardError(f"{where}: no figure {name!r}; it gave {', '.join(grades)}.")
    for name, value in grades.items():
        if not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise RewardError(f"{where}: figure {name!r} is {value!r}, not a finite number.")
    return {name: float(value) for name, value in grades.items()}
