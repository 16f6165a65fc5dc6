from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.errors import ConfigError
from dmpo.rewards.base import missing_rows
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


def test_part_without_an_opinion_counts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text(
        "def some(completions):\n    return [None if c == 'a' else 1 for c in completions]"
    )
    some = FunctionReward(FunctionRewardConfig(target=f"{file}:some"))
    reward = CompositeReward([("some", 2.0, some), ("lengths", 1.0, LENGTHS)])
    scored = reward.score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[1, 2 + 2]]
    assert scored.components["some"].isnan().tolist() == [[True, False]]
    assert not missing_rows(scored).any()


def test_row_that_no_part_has_an_opinion_on_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text("def none(completions):\n    return [None for _ in completions]")
    none = FunctionReward(FunctionRewardConfig(target=f"{file}:none"))
    scored = CompositeReward([("one", 2.0, none), ("two", 1.0, none)]).score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[0, 0]]
    assert missing_rows(scored).all()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32) | st.none(), min_size=4, max_size=4),
    st.lists(st.text(st.characters(), max_size=8), min_size=4, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_any_text_gives_finite_totals_and_components_missing_only_where_they_are(
    values: list[float | None], texts: list[str]
) -> None:
    columns = [{"value": values[:2]}, {"value": values[2:]}]
    # Token ids play no part here, and no token is a lone surrogate.
    rollouts = replace(
        rollouts_of(examples_of(*columns), [["a", "b"]] * 2),
        texts=(tuple(texts[:2]), tuple(texts[2:])),
    )
    given_ = FunctionReward(FunctionRewardConfig(target="tests.rewards.functions:given"))
    scored = CompositeReward([("given", 1.0, given_), ("lengths", 0.5, LENGTHS)]).score(
        rollouts, LengthTask()
    )
    assert scored.total.isfinite().all()
    missing = [value is None for value in values]
    assert scored.components["given"].isnan().flatten().tolist() == missing
    assert scored.components["lengths"].isfinite().all()
