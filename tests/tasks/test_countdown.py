from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import DataError
from dmpo.records import Example
from dmpo.registry import TASKS
from dmpo.tasks.countdown import CountdownConfig, CountdownTask, countdown_example
from tests.oracles.tasks import countdown_is_solvable
from tests.paths import DATA, needs_data

SPLITS = ("train", "validation", "test")
TASK = CountdownTask(CountdownConfig())
EXAMPLE = countdown_example([25, 3, 7], 68)


def key(example: Example) -> tuple[object, ...]:
    return (*sorted(example.columns["numbers"]), example.columns["target"])


def right_answer(example: Example) -> str:
    config = CountdownConfig(lazy_fraction=0)
    return CountdownTask(config).demonstrate(example, random.Random(0))


def test_countdown_is_registered() -> None:
    assert TASKS.load("countdown") is CountdownTask


@pytest.mark.parametrize("max_number", [9, 99])
def test_splits_share_no_numbers_with_a_target(max_number: int) -> None:
    task = CountdownTask(CountdownConfig(max_number=max_number, train_size=1000))
    keys = [[key(example) for example in task.examples(split)] for split in SPLITS]
    assert [len(part) for part in keys] == [1000, 256, 256]
    train, validation, test = map(set, keys)
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    assert len(validation) == len(test) == 256
    assert len({example.prompt for example in task.examples("train")}) == 1000


def test_every_problem_has_a_solution_within_bounds() -> None:
    for example in TASK.examples("test")[:100]:
        assert 1 <= example.columns["target"] <= 99
        assert all(1 <= number <= 9 for number in example.columns["numbers"])
        assert TASK.grade(example, right_answer(example)) == {"score": 1, "right": 1}
        assert len(right_answer(example)) < TASK.response_length


def test_solvability_agrees_with_the_plain_search() -> None:
    for example in TASK.examples("validation")[:10]:
        assert countdown_is_solvable(example.columns["numbers"], example.columns["target"])


def test_response_length_fits_the_longest_expression_and_its_end() -> None:
    task = CountdownTask(CountdownConfig(max_number=99))
    assert task.response_length == len("(25-31)*17") + 1


def test_examples_are_those_of_the_seed() -> None:
    tasks = [CountdownTask(CountdownConfig(seed=seed)) for seed in (0, 0, 1)]
    prompts = [[e.prompt for e in task.examples("test")] for task in tasks]
    assert prompts[0] == prompts[1] != prompts[2]


def test_more_problems_than_there_are_are_refused() -> None:
    with pytest.raises(
        DataError, match="found 9 problems of numbers up to 3 and targets up to 1, 20 were"
    ):
        CountdownTask(CountdownConfig(max_number=3, max_target=1, test_size=20)).examples("train")


@pytest.mark.parametrize(
    ("completion", "score", "right"),
    [
        ("25*3-7", 1, 1),
        ("(25 × 3) − 7", 1, 1),
        ("-7+3*25", 1, 1),
        ("25+3+7", 0.1, 0),
        ("25/(3-3)", 0, 0),
        ("25*3", 0, 0),
        ("25*3-7+0", 0, 0),
        ("25*3-7=68", 0, 0),
        ("68", 0, 0),
        ("25*(3-7", 0, 0),
        ("", 0, 0),
    ],
)
def test_grade_of_hand_checked_completions(completion: str, score: float, right: int) -> None:
    assert TASK.grade(EXAMPLE, completion) == {"score": score, "right": right}


def test_prompt_is_the_numbers_and_the_target() -> None:
    assert EXAMPLE.prompt == "25,3,7=68:"


def test_right_numbers_without_a_value_score_as_a_wrong_value() -> None:
    example = countdown_example([4, 2, 2], 4)
    assert TASK.grade(example, "4/(2-2)") == {"score": 0.1, "right": 0}


def test_a_number_given_twice_must_be_used_twice() -> None:
    example = countdown_example([4, 2, 2], 8)
    assert TASK.grade(example, "4+2+2")["right"] == 1
    assert TASK.grade(example, "4*2")["score"] == 0


def test_fractional_steps_count_when_the_value_is_exact() -> None:
    assert TASK.grade(countdown_example([2, 3, 3], 2), "2/3*3")["right"] == 1


def test_read_answer_drops_spaces_and_needless_parentheses() -> None:
    assert TASK.read_answer(EXAMPLE, " ((25*3)) − 7") == "25*3-7"
    assert TASK.read_answer(EXAMPLE, "(25-7)*3") == "(25-7)*3"
    assert TASK.read_answer(EXAMPLE, "the answer") is None


@given(st.text() | st.text(alphabet="2537+-*/() ", max_size=12))
def test_grade_never_raises_and_scores_one_of_three_values(completion: str) -> None:
    figures = TASK.grade(EXAMPLE, completion)
    assert set(figures) == {"score", "right"}
    assert figures["score"] in (0, 0.1, 1)
    assert figures["right"] == float(figures["score"] == 1)
    TASK.read_answer(EXAMPLE, completion)


def test_demonstrations_mix_solutions_with_a_lazy_answer_that_is_wrong() -> None:
    rng = random.Random(0)
    examples = TASK.examples("train")[:500]
    scores = [TASK.grade(e, TASK.demonstrate(e, rng))["score"] for e in examples]
    assert set(scores) == {0.1, 1}
    assert scores.count(0.1) / len(scores) == pytest.approx(0.65, abs=0.08)


def test_lazy_answer_avoids_a_pattern_that_is_right() -> None:
    task = CountdownTask(CountdownConfig(lazy_fraction=1))
    assert task.demonstrate(countdown_example([4, 2, 3], 10), random.Random(0)) == "4+2+3"
    assert task.demonstrate(countdown_example([4, 2, 3], 9), random.Random(0)) == "4*2+3"


def test_demonstration_of_an_unsolvable_problem_is_refused() -> None:
    task = CountdownTask(CountdownConfig(lazy_fraction=0))
    with pytest.raises(DataError, match="no solution in positive whole steps"):
        task.demonstrate(countdown_example([1, 1, 1], 50), random.Random(0))


@needs_data
def test_solutions_of_published_problems_are_right() -> None:
    lines = (DATA / "countdown_cd3_test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    examples = [
        countdown_example([int(n) for n in row["input"].split(",")], int(row["output"]))
        for row in rows
    ]
    assert len(examples) == 256
    assert all(TASK.grade(e, right_answer(e)) == {"score": 1, "right": 1} for e in examples)
