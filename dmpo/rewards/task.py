"""The task's own grader as reward."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch

from dmpo.errors import RewardError
from dmpo.records import Example, Rewards, Rollouts
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
        rows = _grade_groups(rollouts, task)
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


def _grade_groups(rollouts: Rollouts, task: Task) -> list[list[Mapping[str, float]]]:
    # Where each different completion of a prompt is first found.
    first: dict[tuple[int, str], int] = {}
    for prompt, texts in enumerate(rollouts.texts):
        for rollout, text in enumerate(texts):
            first.setdefault((prompt, text), rollout)
    pairs = [(rollouts.prompts.examples[prompt], text) for prompt, text in first]
    name = f"{type(task).__name__}.grade"
    where = [f"{name}, prompt {prompt}, rollout {n}" for (prompt, _), n in first.items()]
    graded = [
        _checked(grades, task, place)
        for grades, place in zip(_grade_all(task, pairs, where), where, strict=True)
    ]
    found = dict(zip(first, graded, strict=True))
    return [[found[prompt, text] for text in texts] for prompt, texts in enumerate(rollouts.texts)]


def _grade_all(
    task: Task, pairs: Sequence[tuple[Example, str]], where: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    try:
        grades = task.grade_all(pairs)
    except (Exception, SystemExit) as error:  # a third party's grader may raise anything
        failure = error
    else:
        if len(grades) != len(pairs):
            name = type(task).__name__
            raise RewardError(f"{name}.grade_all gave {len(grades)} grades for {len(pairs)} texts.")
        return grades
    for (example, text), place in zip(pairs, where, strict=True):
        try:
            task.grade(example, text)
        except (Exception, SystemExit) as error:
            raise RewardError(f"{place}: {type(error).__name__}: {error}") from error
    raise RewardError(
        f"{type(task).__name__}.grade_all: {type(failure).__name__}: {failure}"
    ) from failure


def _checked(grades: Mapping[str, Any], task: Task, where: str) -> Mapping[str, float]:
    for name in task.reward_weights:
        if name not in grades:
            raise RewardError(f"{where}: no figure {name!r}; it gave {', '.join(grades)}.")
    for name, value in grades.items():
        if not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise RewardError(f"{where}: figure {name!r} is {value!r}, not a finite number.")
    return {name: float(value) for name, value in grades.items()}
