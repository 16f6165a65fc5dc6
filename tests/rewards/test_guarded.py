from __future__ import annotations

import time
from pathlib import Path

import pytest

from dmpo.errors import ConfigError, RewardError
from dmpo.rewards.base import missing_rows
from dmpo.rewards.composite import CompositeReward
from dmpo.rewards.function import FunctionReward, FunctionRewardConfig
from dmpo.rewards.guarded import GuardedReward, OnError
from dmpo.rewards.task import TaskReward, TaskRewardConfig
from tests.rewards.helpers import examples_of, rollouts_of
from tests.rewards.tasks import LengthTask

ROLLOUTS = rollouts_of(examples_of({}, {}), [["a", "bb"], ["", "ccc"]])
HANGS = "import threading\ndef reward(completions):\n    if '' in completions:\n"
HANGS += "        threading.Event().wait()\n    return [len(c) for c in completions]"
RAISES = "def reward(completions):\n    return [1 / len(c) for c in completions]"


def guarded(
    path: Path, code: str, on_error: OnError = "stop", timeout: float | None = None
) -> GuardedReward:
    file = path / "my_reward.py"
    file.write_text(code)
    reward = FunctionReward(FunctionRewardConfig(target=f"{file}:reward"))
    return GuardedReward("mine", reward, timeout=timeout, on_error=on_error)


def test_reward_that_answers_is_left_alone(tmp_path: Path) -> None:
    code = "def reward(completions):\n    return [len(c) for c in completions]"
    scored = guarded(tmp_path, code, timeout=30.0).score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[1, 2], [0, 3]]
    assert set(scored.components) == {"reward"}


def test_row_that_raises_is_named_by_the_function(tmp_path: Path) -> None:
    with pytest.raises(
        RewardError,
        match=r"my_reward.py:reward, row 2 \(prompt 1, rollout 0\): ZeroDivisionError: division",
    ):
        guarded(tmp_path, RAISES).score(ROLLOUTS, LengthTask())


def test_rows_that_raise_are_missing_and_the_others_count(tmp_path: Path) -> None:
    scored = guarded(tmp_path, RAISES, "missing").score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[1, 0.5], [0, pytest.approx(1 / 3)]]
    assert missing_rows(scored).tolist() == [[False, False], [True, False]]


def test_value_that_is_no_number_is_missing_as_well(tmp_path: Path) -> None:
    code = "nan = float('nan')\ndef reward(completions):\n"
    code += "    return [nan if c == 'a' else 1 for c in completions]"
    scored = guarded(tmp_path, code, "missing").score(ROLLOUTS, LengthTask())
    assert missing_rows(scored).tolist() == [[True, False], [False, False]]


def test_function_that_hangs_is_named_with_its_row(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(
        RewardError,
        match=r"^reward mine: TimeoutError: no answer within 0.5 s for 4 rollouts; called row by "
        r"row, row 2 \(prompt 1, rollout 0\): no answer$",
    ):
        guarded(tmp_path, HANGS, timeout=0.5).score(ROLLOUTS, LengthTask())
    assert time.monotonic() - begin < 4


def test_row_that_hangs_and_those_behind_it_are_missing(tmp_path: Path) -> None:
    scored = guarded(tmp_path, HANGS, "missing", timeout=0.5).score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[1, 2], [0, 0]]
    assert missing_rows(scored).tolist() == [[False, False], [True, True]]


def test_grader_that_raises_is_missing_in_that_row() -> None:
    rollouts = rollouts_of(examples_of({}), [["a", "raise", "bb"]])
    reward = GuardedReward("t", TaskReward(TaskRewardConfig()), timeout=None, on_error="missing")
    scored = reward.score(rollouts, LengthTask())
    assert scored.total.tolist() == [[0.5, 0, 3]]
    assert missing_rows(scored).tolist() == [[False, True, False]]


def test_reward_that_fails_everywhere_is_missing_everywhere(tmp_path: Path) -> None:
    reward = guarded(tmp_path, "def reward(completions):\n    return 1 / 0", "missing")
    both = CompositeReward([("mine", 2.0, reward), ("task", 1.0, TaskReward(TaskRewardConfig()))])
    scored = both.score(ROLLOUTS, LengthTask())
    assert scored.total.tolist() == [[0.5, 3], [2, 1.5]]
    assert scored.components["mine"].isnan().all()
    assert not missing_rows(scored).any()


def test_time_limit_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="timeout of t must be above 0 s; given 0"):
        GuardedReward("t", TaskReward(TaskRewardConfig()), timeout=0.0, on_error="stop")
