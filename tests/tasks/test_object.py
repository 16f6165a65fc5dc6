from __future__ import annotations

import random
from pathlib import Path

import pytest

from dmpo.errors import ConfigError
from dmpo.tasks.digit_sum import DigitSumConfig, DigitSumTask
from dmpo.tasks.object import ObjectTask, ObjectTaskConfig

CODE = """
from dmpo.tasks.digit_sum import DigitSumConfig, DigitSumTask
from dmpo.tasks.base import Task
made = DigitSumTask(DigitSumConfig(seed=3))
number = 3
def make(seed=0):
    return DigitSumTask(DigitSumConfig(seed=seed))
def wrong():
    return 3
class Half(Task):
    def grade(self, example, completion):
        return {}
"""


def build(folder: Path, name: str, **parameters: object) -> ObjectTask:
    (folder / "mine.py").write_text(CODE)
    target = f"{folder / 'mine.py'}:{name}"
    return ObjectTask(ObjectTaskConfig(target=target, parameters=parameters))


@pytest.mark.parametrize(
    ("name", "parameters"), [("made", {}), ("make", {"seed": 3}), ("DigitSumTask", {"seed": 3})]
)
def test_a_task_a_function_and_a_class_are_the_same_task(
    tmp_path: Path, name: str, parameters: dict[str, int]
) -> None:
    task, own = build(tmp_path, name, **parameters), DigitSumTask(DigitSumConfig(seed=3))
    example = own.examples("test")[0]
    assert [e.prompt for e in task.examples("test")] == [e.prompt for e in own.examples("test")]
    answer = task.demonstrate(example, random.Random(0))
    assert answer == own.demonstrate(example, random.Random(0))
    assert task.grade_all([(example, answer)]) == [own.grade(example, answer)]
    assert task.read_answer(example, answer) == own.read_answer(example, answer)
    assert (task.headline, task.response_length) == (own.headline, own.response_length)
    assert task.num_questions(example) == 1


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mode", {}, "has no object 'mode'; it has make, wrong, Half. Did you mean 'make'?"),
        ("number", {}, "must be a dmpo Task, .* it is of type int"),
        ("wrong", {}, "must be a dmpo Task, .* it is of type int"),
        ("make", {"sed": 3}, "TypeError: make.. got an unexpected keyword argument 'sed'"),
        ("made", {"seed": 3}, "is a task already and takes none"),
        ("Half", {}, "does not define demonstrate, examples, read_answer"),
        ("DigitSumTask", {"sed": 3}, "task.parameters.sed: unknown key"),
    ],
)
def test_what_is_no_task_is_refused(
    tmp_path: Path, name: str, parameters: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, name, **parameters)
