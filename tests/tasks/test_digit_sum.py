from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.records import Example
from dmpo.registry import TASKS
from dmpo.tasks.digit_sum import DigitSumConfig, DigitSumTask
from tests.oracles.tasks import digit_sum_answers

SPLITS = ("train", "validation", "test")
TASK = DigitSumTask(DigitSumConfig())
EXAMPLE = Example(prompt="17!38=", columns={"sum": 17, "forbidden": "38"})


def test_digit_sum_is_registered() -> None:
    assert TASKS.load("digit_sum") is DigitSumTask


def test_prompts_are_all_sums_and_pairs_cut_in_three() -> None:
    parts = [[example.prompt for example in TASK.examples(split)] for split in SPLITS]
    assert [len(part) for part in parts] == [573, 96, 96]
    pairs = list(itertools.combinations("0123456789", 2))
    expected = {f"{total}!{a}{b}=" for total in range(10, 27) for a, b in pairs}
    assert len(expected) == 765
    assert set(parts[0] + parts[1] + parts[2]) == expected


def test_examples_are_those_of_the_seed() -> None:
    tasks = [DigitSumTask(DigitSumConfig(seed=seed)) for seed in (0, 0, 1)]
    prompts = [[e.prompt for e in task.examples("test")] for task in tasks]
    assert prompts[0] == prompts[1] != prompts[2]


def test_prompts_have_10_to_344_right_answers() -> None:
    counts = [len(TASK.right_answers(e)) for split in SPLITS for e in TASK.examples(split)]
    assert (min(counts), max(counts)) == (10, 344)


@pytest.mark.parametrize("split", SPLITS)
def test_right_answers_are_those_of_the_plain_search(split: str) -> None:
    for example in TASK.examples(split)[:2]:
        expected = digit_sum_answers(example.columns["sum"], example.columns["forbidden"])
        assert TASK.right_answers(example) == tuple(expected)


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("9620", 1),  # 9 + 6 + 2 + 0 = 17
        (" 96\n20", 1),
        ("9630", 0),  # sum 18, and 3 is forbidden
        ("9530", 0),  # the sum is right, 3 is forbidden
        ("9621", 0),  # sum 18
        ("962", 0),
        ("96200", 0),
        ("９６２０", 0),  # full-width digits are not the digits
        ("", 0),
    ],
)
def test_grade_of_hand_checked_completions(completion: str, right: int) -> None:
    assert TASK.grade(EXAMPLE, completion) == {"right": right}


@given(st.text() | st.text(alphabet="0123456789²", max_size=6))
def test_grade_never_raises_and_agrees_with_the_list(completion: str) -> None:
    answer = TASK.read_answer(EXAMPLE, completion)
    right = answer in TASK.right_answers(EXAMPLE)
    assert TASK.grade(EXAMPLE, completion) == {"right": float(right)}


def test_demonstrations_are_a_mixture_of_right_joint_and_marginal_faults() -> None:
    rng = random.Random(0)
    kinds = Counter()
    for _ in range(4000):
        answer = TASK.demonstrate(EXAMPLE, rng)
        kinds[sum(map(int, answer)), bool(set(answer) & set("38"))] += 1
    shares = {kind: count / 4000 for kind, count in kinds.items()}
    expected = {(17, False): 0.35, (18, False): 0.40, (17, True): 0.25}
    assert shares == pytest.approx(expected, abs=0.03)


def test_right_demonstrations_reach_every_right_answer() -> None:
    task = DigitSumTask(DigitSumConfig(right_fraction=1, joint_fault_fraction=0))
    rng = random.Random(0)
    drawn = {task.demonstrate(EXAMPLE, rng) for _ in range(5000)}
    assert drawn == set(task.right_answers(EXAMPLE))


def test_fractions_above_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"add up to 1\.2"):
        DigitSumConfig(right_fraction=0.6, joint_fault_fraction=0.6)
