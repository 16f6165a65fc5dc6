from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from dmpo_reasoning_gym.library import HASH_DEPENDENT, dataset_names
from dmpo_reasoning_gym.task import ReasoningGymConfig, ReasoningGymTask
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import ConfigError, DataError, UnknownNameError
from dmpo.registry import TASKS

SPLITS = ("train", "validation", "test")
NAMES = [name for name in dataset_names() if name != "composite"]
LEGS = ReasoningGymTask(ReasoningGymConfig(variant="leg_counting"))

pytestmark = pytest.mark.filterwarnings("ignore:reasoning_gym/.*PYTHONHASHSEED")


def small(variant: str, **parameters: object) -> ReasoningGymTask:
    sizes = {"train_size": 1, "validation_size": 1, "test_size": 1}
    return ReasoningGymTask(ReasoningGymConfig(variant=variant, **(sizes | parameters)))


def test_variant_is_taken_from_the_name() -> None:
    task = TASKS.build("reasoning_gym/leg_counting", {"response_length": 4})
    assert isinstance(task, ReasoningGymTask)
    assert (task.config.variant, task.response_length) == ("leg_counting", 4)


def test_the_library_has_more_than_a_hundred_data_sets() -> None:
    assert len(NAMES) > 100


def test_splits_share_no_question() -> None:
    parts = [[example.prompt for example in LEGS.examples(split)] for split in SPLITS]
    assert [len(part) for part in parts] == [512, 64, 64]
    assert len(set(parts[0] + parts[1] + parts[2])) == 640


def test_scarce_questions_stay_disjoint_or_are_refused() -> None:
    # 9 questions: gcd of two numbers from 1 to 3
    params = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 3}
    task = small("gcd", params=params, train_size=5)
    prompts = [example.prompt for split in SPLITS for example in task.examples(split)]
    assert len(set(prompts)) == 7
    with pytest.raises(DataError, match=r"distinct train questions .* 50 were asked for"):
        small("gcd", params=params, train_size=50).examples("train")


def test_test_split_does_not_depend_on_what_was_asked_before() -> None:
    first, second = small("leg_counting"), small("leg_counting", train_size=9)
    second.examples("train")
    assert [e.prompt for e in first.examples("test")] == [e.prompt for e in second.examples("test")]


def test_neighbouring_seeds_share_no_items() -> None:
    tasks = [small("leg_counting", seed=seed, train_size=50) for seed in (0, 1)]
    first, second = ({e.prompt for e in task.examples("train")} for task in tasks)
    assert not first & second


@pytest.mark.parametrize("name", ["list_functions", "pool_matrix", "bf"])
def test_items_do_not_touch_the_global_random_streams_or_print(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    prompts = [small(name).examples("train")[0].prompt for _ in range(2)]
    assert prompts[0] == prompts[1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_only_the_known_data_sets_depend_on_the_hash_seed() -> None:
    slow = {"knight_swap", "zebra_puzzles", "quantum_lock", "intermediate_integration"}
    names = [name for name in NAMES if name not in slow]
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from dmpo_reasoning_gym.library import build_dataset, undisturbed\n"
        "for name in sys.argv[1:]:\n"
        "    data = build_dataset(name, {}, seed=7, size=20)\n"
        "    with undisturbed(7):\n"
        "        items = [(data[i]['question'], data[i]['answer']) for i in range(6)]\n"
        "    print(name, ascii(items))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, *names],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert len(outputs[0]) == len(names)
    differ = {a.split()[0] for a, b in zip(*outputs, strict=True) if a != b}
    assert differ == HASH_DEPENDENT - slow


@pytest.mark.filterwarnings("default")
def test_data_set_that_depends_on_the_hash_seed_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.warns(UserWarning, match="ransom_note: its items depend on Python's hash seed"):
        small("ransom_note")


@given(st.text())
def test_grade_never_raises(completion: str) -> None:
    example = LEGS.examples("test")[0]
    assert 0 <= LEGS.grade(example, completion)["score"] <= 1
    assert LEGS.read_answer(example, completion) == (completion.strip() or None)


def test_composite_grades_by_the_items_own_data_set() -> None:
    params = {"datasets": [{"name": "countdown"}, {"name": "gcd", "weight": 2}]}
    task = small("composite", params=params, train_size=8)
    sources = {e.columns["metadata"]["source_dataset"] for e in task.examples("train")}
    assert sources == {"countdown", "gcd"}
    for example in task.examples("train"):
        assert task.grade(example, example.columns["answer"]) == {"score": 1}


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'leg_counting'"):
        TASKS.build("reasoning_gym/leg_countin")


def test_name_without_a_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.variant: required and not given"):
        TASKS.build("reasoning_gym")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"legs": 1}, "refuses {'legs': 1}: TypeError: .*'legs'"),
        ({"min_animals": -1}, "AssertionError: min_animals must be positive"),
        ({"seed": 3}, r"task\.params\.seed: set by task\.seed"),
    ],
)
def test_params_that_the_data_set_refuses_are_named(params: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small("leg_counting", params=params)
