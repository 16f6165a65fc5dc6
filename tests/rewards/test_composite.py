from __future__ import annotations

import pytest

from dmpo.errors import ConfigError
from dmpo.rewards.composite import CompositeReward
from dmpo.rewards.function import FunctionReward, FunctionRewardConfig
from dmpo.rewards.task import TaskReward, TaskRewardConfig
from tests.rewards.helpers import examples_of, rollouts_of
from tests.rewards.tasks import LengthTask

ROLLOUTS = rollouts_of(examples_of({}), [["a", "bb"]])
TASK = TaskReward(TaskRewardConfig())
LENGTHS = FunctionReward(FunctionRewardConfig(target="tests.rewards.functions:lengths"))


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    reward = CompositeReward([("task", 2.0, TASK), ("lengths", -1.0, LENGTHS)])
    # task: .5 and 3; lengths: 1 and 2
    assert reward.score(ROLLOUTS, LengthTask()).total.tolist() == [[2 * 0.5 - 1, 2 * 3 - 2]]


def test_components_name_the_part_they_come_from() -> None:
    reward = CompositeReward([("task", 2.0, TASK), ("lengths", -1.0, LENGTHS)])
    components = reward.score(ROLLOUTS, LengthTask()).components
    assert {name: value.tolist() for name, value in components.items()} == {
        "task": [[0.5, 3]],
        "task/length": [[1, 2]],
        "task/even": [[0, 1]],
        "task/other": [[7, 7]],
        "lengths": [[1, 2]],
        "lengths/lengths": [[1, 2]],
    }


@pytest.mark.parametrize("names", [[], ["task", "task"]])
def test_parts_without_names_of_their_own_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="names must be distinct and at least one"):
        CompositeReward([(name, 1.0, TASK) for name in names])
