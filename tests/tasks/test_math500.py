from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import DataError
from dmpo.registry import TASKS
from dmpo.tasks.math500 import Math500Config, Math500Task, math500_example

TASK = Math500Task(Math500Config(time_limit=60))
PUBLISHED = Math500Task(Math500Config(grader="published"))
EXAMPLE = math500_example("What is it?", r"\frac{1}{2}")


def test_math500_is_registered() -> None:
    assert TASKS.load("math500") is Math500Task


def test_prompt_is_the_papers() -> None:
    assert EXAMPLE.prefill == "<reasoning>"
    assert EXAMPLE.prompt == (
        "You are a math expert. You will be given a question to solve. Solve it step by step. "
        "Wrap the final answer in a \\boxed{}.\nRespond in the following format:\n<reasoning>\n"
        "Your reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>\n\nWhat is it?"
    )


@pytest.mark.parametrize(
    ("completion", "right", "form"),
    [
        (r"x</reasoning><answer>\boxed{0.5}</answer><|eot_id|>", 1, 1),
        (r"x</reasoning><answer>\frac24</answer>", 1, 0.75),
        (r"It is \boxed{\frac{1}{2}}.", 1, 0.5),
        (r"x</reasoning><answer>The answer is \(\frac{1}{2}\).</answer>", 1, 0.75),
        (r"\boxed{0.5}<answer>\boxed{0.25}</answer>", 0, 1),
        ("one half", 0, 0.25),
        ("", 0, 0.25),
        (r"<|eot_id|>\boxed{0.5}", 0, 0.25),
    ],
)
def test_grade_of_hand_checked_completions(completion: str, right: int, form: float) -> None:
    assert TASK.grade(EXAMPLE, completion) == {"right": right, "format": form}


def test_many_completions_are_graded_as_one_by_one() -> None:
    example = math500_example("q", "x+1")
    pairs = [(example, text) for text in (r"\boxed{1+x}", r"\boxed{x}", "", r"\boxed{x+1}")]
    assert [figures["right"] for figures in TASK.grade_all(pairs)] == [1, 0, 0, 1]
    assert TASK.grade_all(pairs) == [TASK.grade(*pair) for pair in pairs]


def test_equal_answers_are_read_as_the_reference() -> None:
    assert TASK.read_answer(EXAMPLE, r"\boxed{0.5}") == r"\frac{1}{2}"
    assert TASK.read_answer(EXAMPLE, r"\boxed{0.25}") == "0.25"
    assert TASK.read_answer(EXAMPLE, "") is None
    assert PUBLISHED.read_answer(EXAMPLE, r"\boxed{0.5}") == "0.5"


def test_the_published_grader_is_its_parser() -> None:
    assert PUBLISHED.grade(EXAMPLE, r"\boxed{0.5}")["right"] == 1
    assert PUBLISHED.grade(EXAMPLE, r"\boxed{0.50}")["right"] == 0


def test_a_saved_completion_says_its_problem_by_question_and_reference() -> None:
    record = {"question": "What is it?", "reference": r"\frac{1}{2}"}
    example = TASK.from_record(record)
    assert (example.prompt, example.columns) == (EXAMPLE.prompt, EXAMPLE.columns)


def test_the_answer_may_stand_in_the_solutions_last_box(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"problem": "a", "solution": r"First \boxed{1}, so \boxed{\frac{1}{2}}."},
        {"problem": "b", "answer": "7", "solution": "Counting."},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = Math500Task(Math500Config(test_source=str(path)))
    examples = task.examples("test")
    assert [example.columns["answer"] for example in examples] == [r"\frac{1}{2}", "7"]
    for example in examples:
        answer = task.demonstrate(example, random.Random(0))
        assert task.grade(example, answer) == {"right": 1, "format": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "a", "solution": "None."}, "line 1: there is neither an `answer` nor a box"),
        ({"problem": "a"}, "line 1: text under 'answer' is needed"),
    ],
)
def test_a_row_that_is_no_problem_is_named(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        Math500Task(Math500Config(test_source=str(path))).examples("test")


def test_a_problem_without_a_solution_has_no_demonstration() -> None:
    with pytest.raises(DataError, match="no solution"):
        TASK.demonstrate(EXAMPLE, random.Random(0))


@given(
    st.lists(
        st.sampled_from(
            ["</reasoning>", "<answer>", "</answer>", "\n", "\\boxed{", "}", "1", "/2", "²", "\0"]
        )
    ).map("".join)
)
def test_any_text_gives_figures_in_range(completion: str) -> None:
    for task in (Math500Task(Math500Config(time_limit=1)), PUBLISHED):
        figures = task.grade(EXAMPLE, completion)
        assert figures.keys() == {"right", "format"}
        assert figures["right"] in (0, 1)
        assert figures["format"] in (0.25, 0.5, 0.75, 1)
