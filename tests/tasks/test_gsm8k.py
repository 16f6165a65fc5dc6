from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import DataError
from dmpo.records import Example
from dmpo.registry import TASKS
from dmpo.tasks.gsm8k import Gsm8kConfig, Gsm8kTask, gsm8k_example
from tests.paths import DATA, needs_data

TASK = Gsm8kTask(Gsm8kConfig())
PUBLISHED = Gsm8kTask(Gsm8kConfig(grader="published"))
EXAMPLE = gsm8k_example("How many?", "1,234")
RIGHT = "\nThree.\n</reasoning>\n<answer>\n\\boxed{1234}\n</answer>"
RANGES = {"right": 1, "integer": 1, "strict_format": 1, "soft_format": 1, "xml_count": 0.5}


def write_rows(path: Path, questions: list[str]) -> str:
    rows = [
        {"question": q, "answer": f"It is <<1+1=2>>2.\n#### {n}"} for n, q in enumerate(questions)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_gsm8k_is_registered() -> None:
    assert TASKS.load("gsm8k") is Gsm8kTask


def test_prompt_is_the_papers() -> None:
    assert EXAMPLE.prefill == "<reasoning>"
    assert EXAMPLE.prompt == (
        "You are a math expert. You will be given a question to solve. Solve it step by step. "
        "Wrap the final answer in a \\boxed{}. \nRespond in the following format:\n<reasoning>\n"
        "Your reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>\n\nHow many?"
    )


def test_a_right_answer_in_the_papers_format_gets_the_whole_reward() -> None:
    figures = TASK.grade(EXAMPLE, RIGHT + "<|eot_id|><|endoftext|>")
    assert figures == RANGES
    assert sum(TASK.reward_weights[name] * value for name, value in figures.items()) == 4


@pytest.mark.parametrize(
    ("completion", "figures"),
    [
        ("", [0, 0, 0, 0, 0.125]),
        ("1234", [0, 0, 0, 0, 0.125]),
        ("#### 1,234", [1, 1, 0, 0, 0.125]),
        ("x</reasoning>\n\n<answer>\\boxed{1234.0}</answer> so", [1, 1, 0, 1, 0.497]),
        ("\nx\n</reasoning>\n<answer>\n1234.5\n</answer>", [0, 0, 1, 1, 0.5]),
        ("\n\n</reasoning>\n<answer>\n1\n</answer>", [0, 1, 1, 1, 0.5]),
        ("<answer>1234</answer></reasoning>" + "x" * 900, [1, 1, 0, 0, 0]),
        ("<answer>1</answer><answer>1234</answer>", [1, 1, 0, 0, 0.125]),
    ],
)
def test_grade_of_hand_checked_completions(completion: str, figures: list[float]) -> None:
    assert list(TASK.grade(EXAMPLE, completion).values()) == pytest.approx(figures)


def test_answers_are_numbers_in_their_shortest_writing() -> None:
    assert TASK.read_answer(EXAMPLE, r"\boxed{\$1,234.50}") == "1234.5"
    assert TASK.read_answer(EXAMPLE, r"\boxed{none}") is None
    assert PUBLISHED.read_answer(EXAMPLE, r"\boxed{\$1,234.50}") == "1.0"


def test_the_published_grader_is_its_parser() -> None:
    assert PUBLISHED.grade(EXAMPLE, r"\boxed{1234} \boxed{5}")["right"] == 1
    assert TASK.grade(EXAMPLE, r"\boxed{1234} \boxed{5}")["right"] == 0
    assert PUBLISHED.grade(EXAMPLE, r"\boxed{1,234}")["right"] == 0


def test_a_saved_completion_says_its_problem_by_question_and_reference() -> None:
    example = TASK.from_record({"question": "How many?", "reference": 1234.0, "completion": ""})
    assert (example.prompt, example.columns) == (EXAMPLE.prompt, EXAMPLE.columns)
    unknown = TASK.from_record({"question": "How many?", "reference": None})
    assert TASK.grade(unknown, RIGHT)["right"] == PUBLISHED.grade(unknown, RIGHT)["right"] == 0


def test_splits_share_no_question(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [*"abcdefgh", "a", "z"])
    test = write_rows(tmp_path / "test.jsonl", ["z", "y"])
    task = Gsm8kTask(Gsm8kConfig(train_source=train, test_source=test, validation_size=3))
    parts = {
        split: [example.columns["question"] for example in task.examples(split)]
        for split in ("train", "validation", "test")
    }
    assert parts["test"] == ["z", "y"]
    assert sorted(parts["train"] + parts["validation"]) == list("abcdefgh")
    assert len(parts["validation"]) == 3


def test_demonstrations_are_right_and_in_format(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ["a", "b"])
    task = Gsm8kTask(Gsm8kConfig(test_source=source))
    example = task.examples("test")[1]
    answer = task.demonstrate(example, random.Random(0))
    assert answer.startswith("\nIt is 2.\n</reasoning>")
    assert task.grade(example, answer) == RANGES


def test_a_number_alone_is_no_demonstration() -> None:
    with pytest.raises(DataError, match="no solution"):
        TASK.demonstrate(EXAMPLE, random.Random(0))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "#### none"}, "line 1: the answer must be a number"),
        ({"problem": "a", "answer": "1"}, "line 1: text under 'question' is needed"),
    ],
)
def test_a_row_that_is_no_problem_is_named(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=message) as caught:
        Gsm8kTask(Gsm8kConfig(test_source=str(path))).examples("test")
    assert str(caught.value).startswith("task.test_source: ")


@needs_data
@pytest.mark.parametrize("name", ["train", "test"])
def test_every_reference_answer_is_right_against_itself(name: str) -> None:
    lines = (DATA / "gsm8k" / f"{name}.jsonl").read_text().splitlines()
    task = Gsm8kTask(Gsm8kConfig(test_source=str(DATA / "gsm8k" / f"{name}.jsonl")))
    examples: list[Example] = list(task.examples("test"))
    assert len(examples) == len(lines) == {"train": 7473, "test": 1319}[name]
    for example, line in zip(examples, lines, strict=True):
        assert task.grade(example, json.loads(line)["answer"])["right"] == 1
        shown = task.demonstrate(example, random.Random(0))
        assert task.grade(example, shown)["right"] == 1


@given(
    st.text()
    | st.lists(
        st.sampled_from(["</reasoning>", "<answer>", "</answer>", "\n", "\\boxed{1234}", "#### 5"])
    ).map("".join)
)
def test_any_text_gives_figures_in_range(completion: str) -> None:
    for task in (TASK, PUBLISHED):
        figures = task.grade(EXAMPLE, completion)
        assert figures.keys() == RANGES.keys()
        assert all(0 <= figures[name] <= most for name, most in RANGES.items())
        task.read_answer(EXAMPLE, completion)
