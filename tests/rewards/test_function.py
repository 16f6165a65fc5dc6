from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dmpo.errors import ConfigError, RewardError
from dmpo.records import Rewards
from dmpo.registry import REWARDS
from dmpo.rewards.base import missing_rows
from dmpo.rewards.function import FunctionReward, FunctionRewardConfig
from tests.rewards.helpers import examples_of, rollouts_of
from tests.rewards.tasks import LengthTask

ROLLOUTS = rollouts_of(
    examples_of({"target": 2, "hint": "x"}, {"target": 3}), [["a", "bb"], ["", "ccc"]]
)


def score(path: Path, code: str) -> Rewards:
    file = path / "my_reward.py"
    file.write_text(code)
    config = FunctionRewardConfig(target=f"{file}:reward")
    return FunctionReward(config).score(ROLLOUTS, LengthTask())


def test_function_is_registered() -> None:
    reward = REWARDS.build("function", {"target": "tests.rewards.functions:lengths"})
    assert isinstance(reward, FunctionReward)


def test_module_function_is_called_with_a_list_per_rollout() -> None:
    reward = FunctionReward(FunctionRewardConfig(target="tests.rewards.functions:lengths"))
    assert reward.score(ROLLOUTS, LengthTask()).total.tolist() == [[1, 2], [0, 3]]


def test_columns_prompts_and_ids_reach_the_function(tmp_path: Path) -> None:
    code = """
def reward(prompts, completions, completion_ids, **columns):
    assert prompts == ["q0", "q0", "q1", "q1"]
    assert completions == ["a", "bb", "", "ccc"]
    assert completion_ids == [[97, 0], [98, 98, 0], [0], [99, 99, 99, 0]]
    assert columns["target"] == [2, 2, 3, 3]
    assert columns["hint"] == ["x", "x", None, None]
    assert set(columns) == {"target", "hint", "trainer_state", "log_metric", "log_extra"}
    return [float(len(c) == t) for c, t in zip(completions, columns["target"])]
"""
    assert score(tmp_path, code).total.tolist() == [[0, 1], [0, 1]]


def test_only_what_the_function_accepts_is_passed(tmp_path: Path) -> None:
    code = "def reward(target, *, scale=2):\n    return [scale * t for t in target]"
    assert score(tmp_path, code).total.tolist() == [[4, 4], [6, 6]]


def test_none_is_missing_and_counts_nothing(tmp_path: Path) -> None:
    rewards = score(tmp_path, "def reward(prompts):\n    return [None, 1, True, None]")
    assert rewards.total.tolist() == [[0, 1], [1, 0]]
    assert missing_rows(rewards).tolist() == [[True, False], [False, True]]


def test_step_of_the_run_reaches_the_function(tmp_path: Path) -> None:
    file = tmp_path / "my_reward.py"
    file.write_text(
        "def reward(prompts, trainer_state, **kwargs):\n"
        "    return [trainer_state.global_step] * len(prompts)"
    )
    reward = FunctionReward(FunctionRewardConfig(target=f"{file}:reward"))
    reward.begin_step(7)
    assert reward.score(ROLLOUTS, LengthTask()).total.tolist() == [[7, 7], [7, 7]]


def test_numbers_that_the_function_logs_are_components(tmp_path: Path) -> None:
    code = """
def reward(completions, log_metric=None, log_extra=None, **kwargs):
    log_metric("share", 0.5)
    log_extra("length", [len(c) for c in completions])
    log_extra("text", completions)
    return [1.0, 2.0, None, 4.0]
"""
    components = score(tmp_path, code).components
    assert set(components) == {"share", "length", "reward"}
    assert components["length"].nan_to_num(-1).tolist() == [[1, 2], [-1, 3]]
    assert components["share"].nanmean() == 0.5


@pytest.mark.parametrize(
    "returned", ["torch.tensor([1, 2, 3, 4])", "[torch.tensor(i) for i in (1, 2, 3, 4)]"]
)
def test_tensors_are_taken_as_numbers(tmp_path: Path, returned: str) -> None:
    rewards = score(tmp_path, f"import torch\ndef reward(prompts):\n    return {returned}")
    assert rewards.total.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return 1 / 0",
            r"my_reward.py:reward, row 0 \(prompt 0, rollout 0\): ZeroDivisionError: division",
        ),
        ("return [1, 2, 3]", "my_reward.py:reward returned 3 values for 4 rollouts"),
        ("return None", "my_reward.py:reward returned NoneType, not a list of 4 numbers"),
        ("return '1234'", "my_reward.py:reward returned str, not a list of 4 numbers"),
        (
            "return [1, 2, float('nan'), 4]",
            r"my_reward.py:reward, row 2 \(prompt 1, rollout 0\): nan is not a finite number",
        ),
        ("return [1, float('inf'), 3, 4]", r"row 1 \(prompt 0, rollout 1\): inf is not a finite"),
        ("return (1.0 for _ in prompts)", "returned generator, not a list of 4 numbers"),
        ("return [10**400, 2, 3, 4]", r"row 0 .*: 10+ is not a finite number"),
        ("return [1e300, 2, 3, 4]", r"row 0 .*: 1e\+300 is not a finite number"),
        ("raise SystemExit(3)", r"my_reward.py:reward, row 0 .*: SystemExit: 3"),
        (
            "if len(prompts) > 1: raise ValueError('too many')\n    return [1]",
            "my_reward.py:reward: ValueError: too many",
        ),
        ("return [1, 2, 3, '4']", r"row 3 \(prompt 1, rollout 1\): '4' is not a finite number"),
    ],
)
def test_misbehaving_function_is_named(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        score(tmp_path, f"def reward(prompts):\n    {body}")


ASYNC = """
import asyncio
async def reward(completions, **kwargs):
    return await asyncio.gather(*[later(c) for c in completions])
async def later(completion):
    await asyncio.sleep(0)
    return len(completion)
"""


def test_coroutine_is_awaited(tmp_path: Path) -> None:
    assert score(tmp_path, ASYNC).total.tolist() == [[1, 2], [0, 3]]


def test_coroutine_is_awaited_where_a_loop_runs_already(tmp_path: Path) -> None:
    async def notebook() -> Rewards:
        return score(tmp_path, ASYNC)

    assert asyncio.run(notebook()).total.tolist() == [[1, 2], [0, 3]]


def test_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"needs 'targets'; .* Did you mean 'target'"):
        score(tmp_path, "def reward(targets):\n    return targets")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent.py:reward", "no file absent.py"),
        ("no_such_module:reward", "no module 'no_such_module'; a file is named by its path"),
        ("tests.rewards.functions:length", "has no function 'length'.* Did you mean 'lengths'?"),
        ("tests.rewards.functions:NUMBER", "is no function, but of type int"),
        ("fractions:Fraction", "is no function, but a class"),
        ("operator:add", "takes 'a' by position alone"),
    ],
)
def test_target_that_cannot_be_loaded_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"reward.target: .*{message}"):
        FunctionReward(FunctionRewardConfig(target=target))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def reward(:", "SyntaxError"),
        ("import no_such", "ModuleNotFoundError"),
        ("exit()", "SystemExit"),
    ],
)
def test_file_that_fails_to_import_is_refused(tmp_path: Path, code: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"my_reward\.py cannot be imported: {reason}"):
        score(tmp_path, code)


def test_file_may_hold_dataclasses(tmp_path: Path) -> None:
    code = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Grade:
    value: float

def reward(prompts):
    return [Grade(1.0).value for _ in prompts]
"""
    assert score(tmp_path, code).total.tolist() == [[1, 1], [1, 1]]


def test_target_without_a_function_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward\.target: .*given 'module'"):
        REWARDS.build("function", {"target": "module"})
