from __future__ import annotations

from typing import Any

import pytest
import torch

from dmpo.errors import RewardError
from dmpo.registry import REWARDS
from dmpo.rewards.task import TaskReward, TaskRewardConfig
from dmpo.tasks.sudoku import SudokuConfig, SudokuTask, sudoku_example
from tests.rewards.helpers import examples_of, rollouts_of
from tests.rewards.tasks import LengthTask

REWARD = TaskReward(TaskRewardConfig())
ROLLOUTS = rollouts_of(examples_of({}, {}), [["a", "bb", "a"], ["a", "", "ccc"]])


def test_task_reward_is_registered() -> None:
    assert isinstance(REWARDS.build("task"), TaskReward)


def test_total_is_the_weighted_sum_of_the_figures() -> None:
    rewards = REWARD.score(ROLLOUTS, LengthTask())
    # length/2 + 2·even: "a" .5, "bb" 1 + 2, "" 0 + 2, "ccc" 1.5
    assert rewards.total.tolist() == [[0.5, 3.0, 0.5], [0.5, 2.0, 1.5]]


def test_every_figure_is_a_component() -> None:
    components = REWARD.score(ROLLOUTS, LengthTask()).components
    assert set(components) == {"length", "even", "other"}
    assert components["length"].tolist() == [[1, 2, 1], [1, 0, 3]]
    assert all(value.dtype == torch.float32 for value in components.values())


def test_equal_completions_of_one_prompt_are_graded_once() -> None:
    task = LengthTask()
    REWARD.score(ROLLOUTS, task)
    assert task.graded == [("q0", "a"), ("q0", "bb"), ("q1", "a"), ("q1", ""), ("q1", "ccc")]


def test_sudoku_reward_is_the_share_of_right_blanks() -> None:
    example = sudoku_example("1200000003414020", "1234341223414123")
    rollouts = rollouts_of([example], [["1234341223414123", "1243341223414123"]])
    total = REWARD.score(rollouts, SudokuTask(SudokuConfig())).total
    assert total[0].tolist() == pytest.approx([1, 7 / 9])


def test_grader_that_raises_is_named_with_its_row() -> None:
    rollouts = rollouts_of(examples_of({}, {}), [["a", "b"], ["a", "raise"]])
    with pytest.raises(RewardError, match=r"LengthTask.grade, prompt 1, rollout 1: KeyError"):
        REWARD.score(rollouts, LengthTask())


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"length": 1.0}, "no figure 'even'; it gave length"),
        ({"length": float("nan"), "even": 1.0}, "figure 'length' is nan"),
        ({"length": 1.0, "even": "yes"}, "figure 'even' is 'yes'"),
    ],
)
def test_figures_that_are_no_finite_numbers_are_refused(
    figures: dict[str, Any], message: str
) -> None:
    with pytest.raises(RewardError, match=f"prompt 0, rollout 0: {message}"):
        REWARD.score(ROLLOUTS, LengthTask(figures))
